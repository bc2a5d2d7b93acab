"""All that the slots of some answers say about a drafter, in figures: `metrics` of what was observed."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from drafter.evaluation import metrics
from drafter.evaluation.slots import Observed

CLASSES = ("word", "code", "number", "whitespace")
DOUBTS = (0.1, 0.5, 1.0, 2.0)  # nats of the verifier's law, between which slots are told apart
TOPS = (2, 4, 8)


def diagnosis(observed: Sequence[Observed | None], text_of: Callable[[int], str]) -> dict[str, Any]:
    """The figures of a suite, by name; one that is not defined is None.

    Args:
        text_of: a token's text.
    """
    seen = Observed.together([one for one in observed if one is not None])
    hits, valid = seen.hits, seen.valid

    @cache
    def class_of(token: int) -> int:
        return CLASSES.index(metrics.token_class(text_of(token)))

    classes = torch.tensor([[class_of(token) for token in row] for row in seen.labels.tolist()]).view_as(seen.labels)
    doubts = torch.bucketize(seen.verifier_entropy, torch.tensor(DOUBTS))
    table = metrics.calibration(seen.confidence, hits, valid)
    return {
        **metrics.diagnose(hits, valid),
        "expected_length_by_label_probability": metrics.probabilistic_expected_length(seen.log_label, valid),
        "at_first_error": {
            name: metrics.defined(metrics.at_first_rejection(values, hits, valid))
            for name, values in {
                **{f"label_in_top_{top}": seen.rank < top for top in TOPS},
                "entropy": seen.entropy,
                "margin": seen.margin,
                "verifier_entropy": seen.verifier_entropy,
            }.items()
        },
        "calibration": table,
        "calibration_error": metrics.defined(metrics.calibration_error(table)),
        "by_class": metrics.acceptance_by_class(classes, hits, valid, CLASSES),
        "by_verifier_entropy": metrics.acceptance_by_class(doubts, hits, valid, _between(DOUBTS)),
    }


def _between(edges: Sequence[float]) -> list[str]:
    """Names of the stretches that ascending edges make, from 0 on."""
    inner = [f"{low:g} to {high:g}" for low, high in zip((0, *edges), edges, strict=False)]
    return [*inner, f"above {edges[-1]:g}"]
