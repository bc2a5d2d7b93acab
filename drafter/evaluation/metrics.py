"""What blocks of drafts say about a drafter, slot by slot: pure functions of hits, probabilities and classes.

Shapes: N blocks, G draft slots. `hits` [N, G]: the draft is the token that the verifier wrote; `valid` [N, G]: the slot
lies before the end of the answer. A slot is reached if every slot before it is a hit. Sums over blocks are exact, so
that figures of several ranks are those of their blocks put together.
"""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

BINS = 10


def reached(hits: Tensor, valid: Tensor) -> Tensor:
    """[N, G] valid slots before which every slot is a hit."""
    before = (hits & valid).cumprod(-1).roll(1, -1)  # [N, G]
    before[:, :1] = 1
    return before.bool() & valid


def acceptance_by_slot(hits: Tensor, valid: Tensor) -> list[float]:
    """Of the blocks that reach a slot, the share that keeps it; NaN where none does. The hazard is 1 - this."""
    came = reached(hits, valid)
    return _shares((hits & came).sum(0), came.sum(0))


def marginal_acceptance(hits: Tensor, valid: Tensor) -> list[float]:
    """The share of hits at a slot, whatever came before it: what a framework that never looks at prefixes logs."""
    return _shares((hits & valid).sum(0), valid.sum(0))


def expected_length_by_product(shares: Sequence[float]) -> float:
    """1 + sum over slots k of the product of the shares up to k.

    Of `acceptance_by_slot` that is the tokens per cycle of blocks at every position, but for answers' ends; of
    `marginal_acceptance` it is the EAL of frameworks that take slots for independent, which differs from both.
    """
    total, product = 1.0, 1.0
    for share in shares:
        product *= share
        total += product
    return total


def probabilistic_expected_length(log_accepted: Tensor, valid: Tensor) -> float:
    """The mean over blocks of 1 + sum_k exp(sum_{j<=k} log_accepted_j): tokens per cycle if chance decided each slot.

    Args:
        log_accepted: [N, G] the log-probability that a slot is kept: of its label to the drafter (arXiv:2606.11552,
            eq. 12 without its 1/G) or log sum_v min(p, q) for speculative sampling. An invalid slot ends the block.
    """
    joint = log_accepted.double().cumsum(-1).exp() * valid.cumprod(-1)  # [N, G]
    return float((1 + joint.sum(-1)).mean())


def first_rejections(hits: Tensor, valid: Tensor) -> list[int]:
    """How many blocks end at each slot for a wrong draft, then how many keep all that is valid: [G + 1]."""
    wrong = reached(hits, valid) & ~hits  # [N, G] at most one in a block
    return [*wrong.sum(0).tolist(), len(hits) - int(wrong.sum())]


def waste(hits: Tensor, valid: Tensor) -> float:
    """Of the right drafts, the share behind a wrong one, which no cycle uses (arXiv:2606.11552, table 1)."""
    right = hits & valid
    used = right & reached(hits, valid)
    return 1 - float(used.sum()) / float(right.sum()) if right.any() else math.nan


def at_first_rejection(values: Tensor, hits: Tensor, valid: Tensor) -> float:
    """The mean of a per-slot value [N, G] where blocks are rejected: label in the top k, entropy, margin."""
    wrong = reached(hits, valid) & ~hits
    return float(values[wrong].double().mean()) if wrong.any() else math.nan


def calibration(confidences: Tensor, hits: Tensor, valid: Tensor, bins: int = BINS) -> list[dict[str, float]]:
    """Per bin of the drafter's confidence, of the slots that are reached: how many, mean confidence, share of hits.

    Args:
        confidences: [N, G] in [0, 1], the highest probability of each slot's law.
        bins: of equal width; those without a slot are left out.
    """
    came = reached(hits, valid)
    sure, right = confidences[came].double(), hits[came].double()  # [M] both
    place = (sure * bins).long().clamp(max=bins - 1)  # [M]
    found = []
    for one in range(bins):
        own = place == one
        if own.any():
            figures = {"count": int(own.sum()), "confidence": float(sure[own].mean()), "hits": float(right[own].mean())}
            found.append({"from": one / bins, "to": (one + 1) / bins, **figures})
    return found


def calibration_error(table: Sequence[dict[str, float]]) -> float:
    """The expected calibration error of a `calibration`: |confidence - hits| of the bins, weighted by their counts.

    That of torchmetrics, which does not give the table that a picture is drawn from.
    """
    count = sum(row["count"] for row in table)
    return sum(row["count"] * abs(row["confidence"] - row["hits"]) for row in table) / count if count else math.nan


def token_class(text: str) -> str:
    """`whitespace`, `number`, `word` or `code` (anything with a symbol in it), by a token's text."""
    inside = text.strip()
    if not inside:
        return "whitespace"
    if inside.isdigit():
        return "number"
    return "word" if inside.isalpha() else "code"


def acceptance_by_class(classes: Tensor, hits: Tensor, valid: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Of the slots that are reached, the share kept for each class of the token that the verifier wrote.

    Args:
        classes: [N, G] an index into `names`.
    Returns:
        name → {count, kept}, without classes that no reached slot has.
    """
    came = reached(hits, valid)
    found = {}
    for index, name in enumerate(names):
        own = came & (classes == index)
        if own.any():
            found[name] = {"count": int(own.sum()), "kept": float(hits[own].double().mean())}
    return found


def diagnose(hits: Tensor, valid: Tensor) -> dict[str, Any]:
    """What hits alone say, by name; a figure that is not defined is None."""
    conditional, marginal = acceptance_by_slot(hits, valid), marginal_acceptance(hits, valid)
    return {
        "blocks": len(hits),
        "acceptance_by_slot": [defined(share) for share in conditional],
        "hazard_by_slot": [defined(1 - share) for share in conditional],
        "hits_by_slot": [defined(share) for share in marginal],
        "expected_length_by_marginal_product": defined(expected_length_by_product(marginal)),
        "first_rejections": first_rejections(hits, valid),
        "waste": defined(waste(hits, valid)),
    }


def _shares(parts: Tensor, wholes: Tensor) -> list[float]:
    return [part / whole if whole else math.nan for part, whole in zip(parts.tolist(), wholes.tolist(), strict=True)]


def defined(value: float) -> float | None:
    """A figure, or None in place of NaN, which JSON does not know."""
    return None if math.isnan(value) else value
