"""A drafter for a verifier that has none: some of its layers, fitted to its own answers to the training tasks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from drafter.config import EnsembleConfig, require
from drafter.decode import SpeculativeDecoder
from drafter.evaluation.rewards import Task
from drafter.export.original import weights_of
from drafter.files import atomically
from drafter.models.cut import cut_layers
from drafter.training.batches.texts import TextFeed
from drafter.training.checkpoints import forget, read_checkpoint
from drafter.training.fitting import fit
from drafter.training.language_model import MONITOR, LanguageModelModule
from drafter.verifier import Verifier


def make_pair(
    config: EnsembleConfig, verifier: Verifier, tasks: Sequence[Task], held_out: Sequence[Task], directory: Path
) -> Path:
    """Train the drafter; returns where it lies, as transformers reads it. What is there already is not made again.

    The embedding and the head, one and the same in a tied model, stay the verifier's.

    Args:
        held_out: tasks whose answers tell which checkpoint is best.
    Raises:
        ValueError: the verifier can't be cut so, or its answers make no step.
    """
    export, settings = directory / "export", config.pair.training
    if (export / "config.json").is_file():
        forget(directory / "checkpoints")
        return export
    lightning.seed_everything(config.seed, verbose=False)
    model = cut_layers(verifier.model, config.pair.layers)
    for part in kept_ends(model):
        part.requires_grad_(False)
    rows = answered(config, verifier, tasks)
    remedy = f"the answers make {len(rows)} rows, a step takes {settings.rows}; lower it or raise pair.answers"
    require(len(rows) >= settings.rows, "pair.training.rows", settings.rows, remedy)
    module = LanguageModelModule(model, settings, answered(config, verifier, held_out)[:16], config.seed)
    feed, device = TextFeed(rows, settings, config.seed), str(verifier.device)
    best = fit(module, feed, directory, settings, MONITOR, device=device, dtype=verifier.dtype)
    model.load_state_dict(weights_of(read_checkpoint(best), "model"))
    with atomically(export, folder=True, over=True) as scratch:
        model.save_pretrained(scratch)
        verifier.tokenizer.save_pretrained(scratch)
    forget(directory / "checkpoints")
    return export


def kept_ends(model: Any) -> list[nn.Module]:
    """What stays the verifier's: embedding and head, where they are one and the same one of them."""
    one, other = model.get_input_embeddings(), model.get_output_embeddings()
    return [one] if one.weight is other.weight else [one, other]


def answered(config: EnsembleConfig, verifier: Verifier, tasks: Sequence[Task]) -> Tensor:
    """Prompts with sampled answers behind them, end to end, cut into rows: ids [R, S]."""
    prompts = [verifier.chat_ids(task.prompt) for task in tasks for _ in range(config.pair.answers)]
    how = {"temperature": config.ensemble.temperature, "seed": config.seed, "batch_size": 32}
    answers = SpeculativeDecoder(verifier).generate(prompts, config.tasks.max_new_tokens, **how)  # type: ignore[arg-type]
    stream = [token for prompt, one in zip(prompts, answers, strict=True) for token in (*prompt, *one.token_ids)]
    length = config.pair.sequence_length
    return torch.tensor(stream[: len(stream) // length * length], dtype=torch.int32).view(-1, length)  # [R, S]
