"""What a run is about to do, in a few lines: before it begins, and, of a recipe, before anything of it is there."""

from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig

from drafter.config import AlignmentConfig, FittingConfig
from drafter.machine.devices import choose_device
from drafter.machine.precision import choose
from drafter.machine.ranks import ranks
from drafter.models.block_config import evenly_spaced, sizes_of
from drafter.training.budget import GIGABYTE, fitting_anchors, parameters, step_memory
from drafter.training.fitting import Batches
from drafter.training.prepare import Material
from drafter.training.room import Fit, expected
from drafter.verifier.conversion import resolve


def plan(config: AlignmentConfig, material: Material, batches: Batches, world: int) -> list[str]:
    """Sizes of the drafter, of the data and of a step."""
    settings, drafter = config.training, material.drafter
    millions = sum(weight.numel() for weight in drafter.parameters()) / 1e6
    vocabulary, proposed = len(material.verifier.head), drafter.vocabulary
    proposes = "all tokens" if proposed is None else f"{len(proposed)} of {vocabulary} tokens"
    rows = settings.rows * settings.accumulate * world
    seen = "" if material.on_disk else f", {settings.max_steps / batches.steps_per_epoch:.3g} epochs"
    precision = str(material.fast).removeprefix("torch.")
    taps = ", ".join(map(str, drafter.tap_layers))
    held_out = f"held out: {len(material.validation)} that choose, {len(material.test)} that are reported"
    return [
        f"drafter: {millions:.3g} M parameters, blocks of {drafter.block_size}, taps of layers {taps}; {proposes}",
        f"data: {material.train_rows} rows, {material.train_tokens} answer tokens; {held_out}",
        f"training: {settings.max_steps} steps of {rows} rows{seen}; {precision} on {world} x {material.device}",
    ]


def outlook(config: AlignmentConfig, verifier: Any = None) -> list[str]:
    """What can be told of a recipe without its weights and its answers: sizes, memory, steps, backends.

    Args:
        verifier: config of the verifier; None reads it.
    Raises:
        ValueError: a setting does not fit this machine or the verifier.
    """
    settings = config.training
    device = choose_device(config.verifier.device)
    world, dtype = ranks(settings.devices, device, settings.nodes), choose(settings.precision, device)
    ways = f"strategy {settings.strategy}, attention over blocks {settings.attention}, taps {config.data.taps}"
    lines = [
        steps(settings, world),
        f"backends: {str(dtype).removeprefix('torch.')} on {world} x {device}, {ways}",
    ]
    if verifier is None:
        verifier = config_here(config.verifier.source)
        if verifier is None:
            return [*lines, absent(config.verifier.source)]
        verifier = verifier.get_text_config()
    shape = outline(config, verifier)
    length = min(config.data.sequence_length, verifier.max_position_embeddings)
    anchors = settings.anchors
    if anchors == "auto":
        anchors = fitting_anchors(shape, settings, length, dtype, verifier.vocab_size, length)
    found = step_memory(shape, settings, length, int(anchors), dtype, verifier.vocab_size, world)
    parts = ", ".join(f"{name} {size / GIGABYTE:.2g}" for name, size in found.items())
    taps = ", ".join(map(str, shape.dflash_config["target_layer_ids"]))
    sizes = f"{shape.num_hidden_layers} layers, blocks of {shape.block_size}, taps of layers {taps}"
    weights = 4.0 * parameters(shape)
    fit = Fit(settings, weights * (2 if settings.average else 1), weights, weights, more=True)
    total, of = sum(found.values()) / GIGABYTE, f"{anchors} anchors in rows of {length} tokens"
    return [
        *lines,
        f"drafter: {parameters(shape) / 1e6:.4g} M parameters, {sizes}",
        f"memory of a step: about {total:.3g} GB ({parts}) with {of}; the verifier comes on top",
        expected([fit], config.directory),
    ]


def config_here(source: str) -> Any:
    """The config of a verifier; None where it can't be read."""
    try:
        return AutoConfig.from_pretrained(resolve(source), trust_remote_code=False)
    except (OSError, ValueError):
        return None


def absent(source: str) -> str:
    """In a line, that sizes can't be told."""
    return f"verifier: the config of {source} is not here: sizes follow from it"


def steps(settings: FittingConfig, world: int) -> str:
    """In a line, the steps of a fit."""
    rows = settings.rows * settings.accumulate * world
    shared = f"rows {settings.rows} x accumulate {settings.accumulate} x {world} ranks"
    how = f"{settings.optimizer}, learning rate {settings.learning_rate:g}, {settings.schedule}"
    return f"steps: {settings.max_steps} of {rows} rows ({shared}), {how}"


def outline(config: AlignmentConfig, verifier: Any) -> Any:
    """What of a drafter's config its sizes follow from."""
    settings = config.drafter
    taps = settings.tap_layers or evenly_spaced(verifier.num_hidden_layers, settings.num_taps)
    return SimpleNamespace(
        **sizes_of(verifier),
        num_hidden_layers=settings.num_layers,
        block_size=settings.block_size,
        dflash_config={"target_layer_ids": taps},
    )
