"""From the models' logits to tokens: the sampling settings, the rule and the random numbers of one `generate` call."""

import torch
from torch import Tensor

from drafter.sampling import probabilities
from drafter.verification import LOSSLESS, RULES, Rule, Verification, match, sample


class Decider:
    """Draws drafts and decides which of them stay.

    Args:
        rule: at temperature 0 every lossless one is `match`.
        temperature, top_p, top_k: of both models' laws.
    """

    def __init__(self, rule: Rule, temperature: float, top_p: float, top_k: int, generator: torch.Generator) -> None:
        self.settings = (temperature, top_p, top_k)
        self.generator = generator
        self.greedy = temperature == 0
        self.rule = match if self.greedy and any(rule is RULES[name] for name in LOSSLESS) else rule
        self.drafts_best = self.rule is match  # argmax drafts, without a law

    def laws(self, logits: Tensor) -> Tensor:
        """The adjusted laws of logits [..., V]."""
        return probabilities(logits, *self.settings)

    def draw(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [...] drawn from the laws of logits [..., V], and those laws."""
        laws = self.laws(logits)
        return sample(laws, self.generator), laws

    def decide(self, draft_ids: Tensor, draft_probs: Tensor | None, logits: Tensor) -> Verification:
        """Apply the rule to drafts [B, G], their laws where they have some, and the verifier's logits [B, 1+G, V]."""
        if self.greedy and self.rule is match:  # the law is one-hot: compare ids and skip the vocabulary
            choice = logits.argmax(-1)  # [B, 1+G]
            accepted = (choice[:, :-1] == draft_ids).cumprod(-1).sum(-1)  # [B]
            return Verification(accepted, choice.gather(1, accepted[:, None])[:, 0])
        return self.rule(draft_ids, draft_probs, self.laws(logits), self.generator)
