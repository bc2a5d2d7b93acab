"""A control for the study of heads: one that is told what matters in sums, and need not learn it from rewards.

    python benchmarks/digits_head.py diversed_quickstart name=digits ensemble.drafter=DIR

The head is fitted, on the training tasks, to weigh the verifier alone where the verifier's likeliest next token holds a
digit, and the drafter alone elsewhere. It is written where a run's would be, for `drafter frontier --head`: whether it
is above the static ensembles says whether one layer over both states could be, on these tasks with this pair.
"""

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


def main(recipe: str, *overrides: str) -> None:
    config = load_as(EnsembleConfig, recipe, overrides)
    if config.ensemble.drafter is None:
        sys.exit("ensemble.drafter: name the drafter that a run of this recipe made, DIR/pair/export")
    training, held_out, _ = tasks_of(config)
    verifier, reward = load(config)
    drafter = kind_of(config.ensemble.drafter).beside(config.ensemble.drafter, verifier)
    head = EnsembleHead(describe(config, verifier, drafter)).to(verifier.device)
    module = EnsembleModule(config, verifier, drafter, head, training, held_out, reward)
    seen = [module.answer(training, module.behaviour, seed)[1] for seed in range(BATCHES)]
    drafted, verified = (torch.cat([getattr(one, name) for one in seen]).float() for name in STATES)
    wanted = holds_digit(verifier, verified)
    right = fit(head, drafted, verified, wanted)
    _, other, _ = module.answer(held_out, module.behaviour, BATCHES)
    with torch.no_grad():
        weight = head(other.drafter_hidden, other.verifier_hidden)
    same = (weight > 0.5) == (holds_digit(verifier, other.verifier_hidden) > 0.5)
    head.save(config.directory / "head")
    said = f"{len(wanted)} tokens, {wanted.mean():.2f} of them digits"
    print(f"{said}: right on {right:.3f}, on held-out tasks {same.float().mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
