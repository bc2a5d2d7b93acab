"""Objectives of a block drafter: pick any of N. The vocabulary is visited once, by `score_slots`, whatever is picked.

To add a loss: one file with a `Loss` dataclass, one field in `Losses`, one naive reference in the tests.
"""

from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from losses.accept_until_fail import AcceptUntilFail
from losses.base import BlockScores, Loss, OverRanks, Term, mean_over_ranks, slot_decay, valid_prefix
from losses.capping import gradient_norm, lowered_to, norms_around
from losses.chain_reward import ChainReward
from losses.decayed_ce import DecayedCE
from losses.distribution import JSD, LK, ForwardKL, OverlapChain, ReverseKL, TotalVariation
from losses.dpace import DPace
from losses.first_error import FirstError
from losses.scoring import SlotScores, score, score_blocks, score_slots, verifier_labels

__all__ = [
    "JSD",
    "LK",
    "AcceptUntilFail",
    "BlockScores",
    "ChainReward",
    "DPace",
    "DecayedCE",
    "FirstError",
    "ForwardKL",
    "Loss",
    "Losses",
    "OverlapChain",
    "ReverseKL",
    "SlotScores",
    "Term",
    "TotalVariation",
    "mean_over_ranks",
    "score",
    "score_blocks",
    "score_slots",
    "slot_decay",
    "valid_prefix",
    "verifier_labels",
]


@dataclass
class Losses:
    """The objective: a field per loss, active where its weight is above 0.

    Raises:
        ValueError: no loss is active, or a cap has nothing, or another capped loss, to be measured against.
    """

    decayed_ce: DecayedCE = field(default_factory=DecayedCE)
    first_error: FirstError = field(default_factory=FirstError)
    chain_reward: ChainReward = field(default_factory=ChainReward)
    dpace: DPace = field(default_factory=DPace)
    accept_until_fail: AcceptUntilFail = field(default_factory=AcceptUntilFail)
    forward_kl: ForwardKL = field(default_factory=ForwardKL)
    reverse_kl: ReverseKL = field(default_factory=ReverseKL)
    jsd: JSD = field(default_factory=JSD)
    total_variation: TotalVariation = field(default_factory=TotalVariation)
    lk: LK = field(default_factory=LK)
    overlap_chain: OverlapChain = field(default_factory=OverlapChain)

    def __post_init__(self):
        if not self.active:
            raise ValueError("losses: none has a weight above 0; set one, for example losses.decayed_ce.weight=1")
        limited = self.capped
        if limited and (len(limited) > 1 or len(self.active) == 1):
            raise ValueError(
                f"losses.{limited[-1]}.gradient_cap: is measured against the other losses' gradient; cap one loss, "
                "beside at least one that is not capped"
            )

    @property
    def active(self) -> dict[str, Loss]:
        """The losses that are computed, by name."""
        losses: dict[str, Loss] = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: loss for name, loss in losses.items() if loss.weight}

    @property
    def capped(self) -> list[str]:
        """Names of the active losses whose gradient is capped: one at most."""
        return [name for name, loss in self.active.items() if loss.gradient_cap is not None]

    @property
    def needs(self) -> frozenset[str]:
        """The scores that the active losses differentiate, for `score_blocks`; beyond nll they need the verifier's."""
        return frozenset().union(*(loss.needs for loss in self.active.values()))

    @property
    def compare_laws(self) -> bool:
        """Whether any active loss needs the verifier's law."""
        return bool(self.needs - {"nll"})

    def __call__(
        self,
        scores: BlockScores,
        step: int | None = None,
        over_ranks: OverRanks = mean_over_ranks,
        slots: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective and each active term of it, without its coefficient; rewards are given as rewards.

        Args:
            scores: of the drafter, one per slot.
            step: of training, from 0, for losses that warm up; None: after warm-up.
            over_ranks: takes the terms' total weights on this rank to their means over ranks. All ranks must call.
            slots: [G] how many blocks have a valid slot k, in the mean over the micro-batches whose gradients are
                averaged: that average is then the gradient of all of them as one batch, for losses whose weights are
                known so (`Loss.known_weight`). None: the batch stands alone.
        """
        means = self._means(scores, over_ranks, slots)
        weights = {name: loss.coefficient(step) for name, loss in self.active.items()}
        lowered = {name: self._lowered(name, means, weights, scores, over_ranks) for name in self.capped}
        total = torch.stack([(weights | lowered)[name] * mean for name, mean in means.items()]).sum()
        return total, {name: -mean if self.active[name].is_reward else mean for name, mean in means.items()}

    def gradient_norms(
        self, scores: BlockScores, over_ranks: OverRanks = mean_over_ranks, slots: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The norm of each active term's gradient in the valid slots' hidden states, without its coefficient.

        The gradient of every slot is stored by scoring, so this costs a multiplication; call it before backward.
        """
        hidden = _states(scores)
        return {name: gradient_norm(mean, hidden) for name, mean in self._means(scores, over_ranks, slots).items()}

    def _lowered(
        self,
        name: str,
        means: dict[str, Tensor],
        weights: dict[str, float],
        scores: BlockScores,
        over_ranks: OverRanks,
    ) -> Tensor:
        """The coefficient that a capped loss may have of its own in `weights`, the same on every rank."""
        cap = self.active[name].gradient_cap
        assert cap is not None
        own, others = over_ranks(norms_around(name, means, weights, _states(scores))).unbind()
        return lowered_to(weights[name], own, others, cap)

    def _means(self, scores: BlockScores, over_ranks: OverRanks, slots: Tensor | None) -> dict[str, Tensor]:
        terms = {name: loss(scores) for name, loss in self.active.items()}
        weights = []
        for name, term in terms.items():
            known = None if slots is None else self.active[name].known_weight(slots)
            weights.append((term.weights.sum() if known is None else known).to(term.weights.dtype))
        totals = over_ranks(torch.stack(weights))  # one exchange for all terms
        return {name: term.mean(total) for (name, term), total in zip(terms.items(), totals, strict=True)}


def _states(scores: BlockScores) -> Tensor:
    if scores.hidden is None or not scores.hidden.requires_grad:
        raise ValueError("BlockScores.hidden: gradient norms need the slots' hidden states, scored with a gradient")
    return scores.hidden
