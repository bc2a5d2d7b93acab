"""What a step of training takes of a device's memory, by arithmetic; and how many anchors a budget holds."""

from typing import Any

import torch

from drafter.config import TrainingConfig

GIGABYTE = 1e9
MOMENTS = {"adamw": 2, "muon": 1}  # of each trained weight; what Muon leaves to AdamW is little
SLACK = 1.2  # for what is no tensor, or lives for a moment


def step_memory(
    shape: Any,
    settings: TrainingConfig,
    length: int,
    anchors: int,
    dtype: torch.dtype,
    vocabulary: int,
    world: int = 1,
) -> dict[str, float]:
    """Bytes, by what they are of, a little more rather than less; the verifier's body comes on top.

    Weights are float32 with their gradients and the optimiser's states, two for AdamW and one for a matrix of Muon.
    Forward, each layer keeps what its gradient needs of every slot: about 6 states of the model's width, 5 of all
    queries, 4 of all keys and 4 of the MLP's; of every context position, 4 of all keys. With `checkpointing` each layer
    keeps its input, and one layer at a time all. Backward, one layer's gradients are half as much again. The head is
    held in float32 and in `dtype`; a chunk of logits exists three times.

    Args:
        shape: the drafter's config.
        length: tokens of the longest row.
        anchors: blocks per row.
        dtype: what products run in.
        vocabulary: rows of the head.
        world: ranks, which share weights out with `training.strategy=fsdp`; a step still needs the whole of them.
    """
    width, layers = shape.hidden_size, shape.num_hidden_layers
    queries = shape.num_attention_heads * shape.head_dim
    keys = shape.num_key_value_heads * shape.head_dim
    taps = len(shape.dflash_config["target_layer_ids"])
    bytes_of = torch.finfo(dtype).bits // 8
    held = (4 + bytes_of) / 2  # of a state: autocast keeps some in float32, some in its own dtype

    matrices = parameters(shape)
    copies = 2 + MOMENTS[settings.optimizer] + (1 if settings.average else 0)
    kept_whole = copies / world + 2 if settings.strategy == "fsdp" and world > 1 else copies

    slots = settings.rows * anchors * shape.block_size
    context = settings.rows * length
    every_slot = 6 * width + 5 * queries + 4 * keys + 4 * shape.intermediate_size
    one, one_context = slots * every_slot, context * 4 * keys
    kept = one + (layers - 1) * slots * width if settings.checkpointing else layers * one
    found = {
        "weights": 4.0 * kept_whole * matrices + (0 if dtype is torch.float32 else bytes_of * matrices),
        "taps": context * (taps * bytes_of + 3 * held) * width,
        "activations": held * (kept + layers * one_context + one / 2),
        "scores": 3 * slots * width * 4.0 + 3 * 4.0 * settings.chunk_size * vocabulary,
        "head": width * vocabulary * (4.0 + (0 if dtype is torch.float32 else bytes_of)),
    }
    return {name: SLACK * size for name, size in found.items()}


def parameters(shape: Any) -> int:
    """Of a drafter, its norms left out."""
    width, heads = shape.hidden_size, shape.num_attention_heads + shape.num_key_value_heads
    layer = width * (2 * heads * shape.head_dim + 3 * shape.intermediate_size)
    return shape.num_hidden_layers * layer + len(shape.dflash_config["target_layer_ids"]) * width * width


def fitting_anchors(
    shape: Any, settings: TrainingConfig, length: int, dtype: torch.dtype, vocabulary: int, most: int
) -> int:
    """The most anchors per row with which a step stays within `training.memory_gb`, at most `most`.

    Raises:
        ValueError: not even one does.
    """
    room = (settings.memory_gb or 0) * GIGABYTE

    def takes(anchors: int) -> float:
        return sum(step_memory(shape, settings, length, anchors, dtype, vocabulary).values())

    if takes(1) > room:
        remedy = "raise it, lower training.rows, or set training.checkpointing=true"
        least = f"a step with one anchor takes {takes(1) / GIGABYTE:.2g}"
        raise ValueError(f"training.memory_gb={settings.memory_gb:g}: {least}; {remedy}")
    low, high = 1, most + 1  # the first fits, the second would be too many
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(middle) <= room else (low, middle)
    return low
