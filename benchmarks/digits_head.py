"""A control for the study of heads: one that is told what matters in sums, and need not learn it from rewards.

    python benchmarks/digits_head.py diversed_quickstart name=digits ensemble.drafter=DIR --heads DIR DIR

The head is fitted, on the training tasks, to weigh the verifier alone where the verifier's likeliest next token holds a
digit, and the drafter alone elsewhere. It is written where a run's would be, for `drafter frontier --head`: whether it
is above the static ensembles says whether one layer over both states could be, on these tasks with this pair. Of the
heads that are named it is told, on tasks that no head was trained on, how much they weigh the verifier at digits and
elsewhere: whether they found out.
"""

import argparse
import sys

import torch
from torch import Tensor
from torch.nn import functional

from drafter.config import EnsembleConfig, load_as
from drafter.models import kind_of
from drafter.models.ensemble_head import EnsembleHead
from drafter.training.ensemble.module import EnsembleModule
from drafter.training.runs.ensemble import describe, load, tasks_of
from drafter.verifier import Verifier

STEPS, LEARNING_RATE, DECAY = 300, 1e-3, 1e-2
STATES = ("drafter_hidden", "verifier_hidden")
BATCHES = 4  # of all training tasks, one answer to each


def holds_digit(verifier: Verifier, hidden: Tensor) -> Tensor:
    """Whether the likeliest token behind each state [N, D] holds a digit: [N], 0 or 1."""
    ids = verifier.logits(hidden.to(verifier.dtype)).argmax(-1).tolist()
    digits = [any(map(str.isdigit, verifier.tokenizer.decode([one]))) for one in ids]
    return torch.tensor(digits, dtype=torch.float32, device=hidden.device)


def fit(head: EnsembleHead, drafter_hidden: Tensor, verifier_hidden: Tensor, wanted: Tensor) -> float:
    """Fit the head's weights to 0 or 1, [N]; returns the share that it has on the right side of a half."""
    optimizer = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        loss = functional.binary_cross_entropy(head(drafter_hidden, verifier_hidden), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(((head(drafter_hidden, verifier_hidden) > 0.5) == (wanted > 0.5)).float().mean())


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="key=value")
    parser.add_argument("--heads", nargs="*", default=[], metavar="DIR")
    parsed = parser.parse_args(words)
    config = load_as(EnsembleConfig, parsed.recipe, parsed.overrides)
    if config.ensemble.drafter is None:
        sys.exit("ensemble.drafter: name the drafter that a run of this recipe made, DIR/pair/export")
    heads = {path: EnsembleHead.load(path) for path in parsed.heads}
    training, held_out, test = tasks_of(config)
    verifier, reward = load(config, config.directory)
    drafter = kind_of(config.ensemble.drafter).beside(config.ensemble.drafter, verifier)
    head = EnsembleHead(describe(config, verifier, drafter)).to(verifier.device)
    module = EnsembleModule(config, verifier, drafter, head, training, held_out, reward)
    seen = [module.answer(training, module.behaviour, seed)[1] for seed in range(BATCHES)]
    drafted, verified = (torch.cat([getattr(one, name) for one in seen]).float() for name in STATES)
    right = fit(head, drafted, verified, holds_digit(verifier, verified))
    head.save(config.directory / "head")
    _, other, _ = module.answer(held_out + test, module.behaviour, BATCHES)
    digit = holds_digit(verifier, other.verifier_hidden) > 0.5
    share = digit.float().mean()
    print(
        f"right on {right:.3f} of {len(verified)} tokens; on {len(digit)} of other tasks, {share:.2f} of them digits:"
    )
    for name, one in {"this head": head, **heads}.items():
        with torch.no_grad():
            weight = one.to(verifier.device)(other.drafter_hidden, other.verifier_hidden)
        print(f"{name}: weight {weight[digit].mean():.3f} at digits, {weight[~digit].mean():.3f} elsewhere")


if __name__ == "__main__":
    main(sys.argv[1:])
