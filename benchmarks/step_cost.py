"""What the three losses add to a training step over uniform cross-entropy: one run, steps in turn, no other difference.

    python benchmarks/step_cost.py [RECIPE] [key=value ...] [--rows 64] [--steps 200] [--json FILE]

A step is everything between two batches of the real trainer: drafter, scoring, losses, backward, clipping, optimiser.
Even steps take the recipe's three losses, odd ones the uniform loss alone, on the same rows in the same order.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from drafter.config import AlignmentConfig, load_as
from drafter.files import write_json
from drafter.training.batches import Batch, Steps
from drafter.training.module import DrafterModule
from drafter.training.prepare import prepare, taps_of
from drafter.verifier import Verifier
from losses import ChainReward, DecayedCE, FirstError

WARM_UP = 10


class InTurn(DrafterModule):
    """Trains with either objective in turn."""

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        self.config = replace(self.config, losses=self.objectives[batch_index % 2])
        return super().training_step(batch, batch_index)


class Clock(lightning.Callback):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)


def measure(recipe: str, words: list[str], rows: int, steps: int) -> dict[str, Any]:
    every = 10 * steps  # neither logged nor validated between steps
    said = [f"data.max_rows={rows}", f"training.log_every={every}", f"training.max_steps={steps}"]
    config = load_as(AlignmentConfig, recipe, [*words, *said])
    material = prepare(config)
    fast = Verifier.load(config.verifier.source, material.fast, material.device)
    taps = taps_of(material.training, fast, material.drafter, "training rows")
    module = InTurn(config, material.drafter, material.verifier, [])
    uniform = replace(
        config.losses,
        decayed_ce=DecayedCE(decay_slots=None),
        first_error=FirstError(None),
        chain_reward=ChainReward(None),
    )
    module.objectives = [config.losses, uniform]
    clock = Clock()
    trainer = lightning.Trainer(
        accelerator="cpu" if material.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if material.fast is torch.bfloat16 else "32-true",
        max_steps=steps,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    batches = Steps(material.training, taps, config)
    twice = [index // 2 for index in range(steps)]  # both objectives see each batch
    trainer.fit(module, DataLoader(batches, sampler=twice, batch_size=None))
    kept = clock.seconds[WARM_UP:]
    full, plain = statistics.median(kept[::2]), statistics.median(kept[1::2])
    pairs = [one / other for one, other in zip(kept[::2], kept[1::2], strict=True)]
    cuts = statistics.quantiles(pairs, n=4)
    return {
        "full_s": full,
        "uniform_s": plain,
        "ratio": full / plain,
        "median_pair": statistics.median(pairs),
        "quartiles_of_pairs": [cuts[0], cuts[2]],
        "pairs": len(pairs),
        "precision": str(material.fast).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "active": list(config.losses.active),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="recipes/mixed.yaml")
    parser.add_argument("words", nargs="*", help="overrides, key=value")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    found = measure(options.recipe, options.words, options.rows, options.steps)
    print(
        f"{', '.join(found['active'])}: {1e3 * found['full_s']:.1f} ms a step; uniform: {1e3 * found['uniform_s']:.1f}"
    )
    low, high = found["quartiles_of_pairs"]
    spread = f"median {found['median_pair']:.3f} ({low:.3f} to {high:.3f})"
    print(f"ratio {found['ratio']:.3f}; of {found['pairs']} pairs: {spread}")
    if options.json:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
