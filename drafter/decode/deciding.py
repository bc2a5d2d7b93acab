"""From the models' states to tokens: the law, the rule and the random numbers of one `generate` call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from drafter.decode.answering import Answering
from drafter.decode.proposers import Proposal, Proposer
from drafter.decode.sampling import Law, likeliest_number
from drafter.verification import Rule, Verification, has_greedy_form, is_lossless, match, needs, sample
from drafter.verification.base import inverse_cdf, uniforms
from drafter.verification.streams import Streams, kept_noise, key, name_of
from drafter.verifier import Verifier

Weight = float | Callable[[Tensor, Tensor], Tensor]


class Decider:
    """Asks for drafts and decides which of them stay.

    Args:
        proposer: None where nothing is drafted.
        rule: at temperature 0 a lossless one is `match`, and a lossy one takes its own greedy form where it has one:
            argmax drafts, and the laws of temperature 1, without top-p and top-k. Without a drafter every rule is
            `match`, unless it keeps noise.
        law: of both models.
        seed: of everything that is random, or one for each prompt. Every row draws from streams of its own, a new one
            in each cycle, so that no other row shifts its numbers.
        verifier_weight: for a rule that needs one: a number, or a function of the drafter's and the verifier's hidden
            states of the drafted slots, two [B, G, D] -> [B, G].
        prompts, limit: how many answers of how many tokens, for a rule that needs noise: each place of each answer
            keeps its number until its token is known. The answers are then a function of the seed alone, whatever the
            drafter, the draft length or the batch.
    """

    def __init__(
        self,
        verifier: Verifier,
        proposer: Proposer | None,
        rule: Rule,
        law: Law,
        seed: int | Sequence[int],
        verifier_weight: Weight | None = None,
        prompts: int = 0,
        limit: int = 0,
    ) -> None:
        self.verifier, self.law = verifier, law
        self.seed = seed
        self.rows: Sequence[Answering | None] = ()
        self._streams: Streams | None = None
        made_greedy = getattr(rule, "keywords", {}).get("greedy", False)  # a partial's
        if made_greedy and not law.greedy:
            raise ValueError(f"temperature={law.temperature}: the rule was made with greedy=True; use temperature 0")
        keeps_noise = "noise" in needs(rule) and not law.greedy
        plain = (law.greedy and is_lossless(rule)) or (proposer is None and not keeps_noise)
        self.rule: Rule = match if plain else rule
        self.weigh = _function(verifier_weight) if "verifier_weight" in needs(self.rule) else None
        self.own_greedy = law.greedy and has_greedy_form(self.rule)
        self.rule_law = Law() if self.own_greedy else law
        self.noise: Tensor | None = None
        if keeps_noise:
            self.noise = kept_noise(seed, prompts, limit, verifier.device)

    def begin(self, rows: Sequence[Answering | None]) -> None:
        """A new cycle of `rows`: they go on with new random numbers."""
        self.rows, self._streams = rows, None

    @property
    def streams(self) -> Streams:
        """This cycle's random numbers, a stream for each row."""
        if self._streams is None:
            names = [
                None if row is None else (*name_of(self.seed, row.index), row.result.verifier_calls)
                for row in self.rows
            ]
            keys = [0 if name is None else key(*name) for name in names]
            self._streams = Streams(torch.tensor(keys, device=self.verifier.device))
        return self._streams

    def noise_at(self, rows: Sequence[Answering | None], count: int) -> Tensor | None:
        """Numbers of the next `count` places of each row, [B, count]; past the end, where nothing is kept, the last."""
        if self.noise is None:
            return None
        prompts = torch.tensor([row.index if row else 0 for row in rows], device=self.noise.device)
        first = torch.tensor([len(row.result.token_ids) if row else 0 for row in rows], device=self.noise.device)
        places = first[:, None] + torch.arange(count, device=self.noise.device)  # [B, count]
        return self.noise[prompts[:, None], places.clamp(max=self.noise.shape[1] - 1)]

    def first(self, rows: Sequence[Answering], hidden: Tensor) -> list[int]:
        """The first token of each row's answer, given the verifier's state [1, D] behind the prompt that they share."""
        self.begin(rows)
        logits = self.verifier.logits(hidden)  # [1, V]
        if self.law.greedy:
            return likeliest_number(logits).tolist() * len(rows)
        law = self.law(logits).expand(len(rows), -1)  # [B, V]
        noise = self.noise_at(rows, 1)
        return (sample(law, self.streams) if noise is None else inverse_cdf(law, noise[:, 0])).tolist()

    def draft(
        self, proposer: Proposer, state: Any, anchors: Tensor, noise: Tensor | None, confidences: bool = False
    ) -> Proposal:
        """What the rule needs behind the anchors [B, 1]: the likeliest tokens, or drawn ones and their laws."""
        if self.rule is match:
            return proposer.propose(state, anchors, self.law, confidences=confidences)
        if self.own_greedy:
            return proposer.propose(state, anchors, self.rule_law, laws=True, confidences=confidences)
        if noise is None:
            own = uniforms((len(anchors), proposer.length), self.streams, anchors.device)  # [B, G]
        else:
            own = noise[:, :-1]
        return proposer.propose(state, anchors, self.law, own, laws=True, confidences=confidences)

    def own(self, hidden: Tensor, noise: Tensor | None) -> Tensor:
        """The verifier's own token behind each of its states: [B, Q, D] -> [B, Q]."""
        logits = self.verifier.logits(hidden)  # [B, Q, V]
        if self.law.greedy:
            return likeliest_number(logits)
        laws = self.law(logits)
        return sample(laws, self.streams) if noise is None else inverse_cdf(laws, noise)

    def decide(self, proposal: Proposal, hidden: Tensor, noise: Tensor | None) -> Verification:
        """Apply the rule to drafts, given the verifier's states [B, 1+G, D] of the anchor and the drafts."""
        logits = self.verifier.logits(hidden)  # [B, 1+G, V]
        if self.law.greedy and self.rule is match:  # the law is one-hot: compare ids and skip the vocabulary
            choice = likeliest_number(logits)  # [B, 1+G]
            accepted = (choice[:, :-1] == proposal.ids).cumprod(-1).sum(-1)  # [B]
            return Verification(accepted, choice.gather(1, accepted[:, None])[:, 0])
        more: dict[str, Any] = {"greedy": True} if self.own_greedy else {}
        if noise is not None:
            more["noise"] = noise
        if self.weigh is not None and proposal.hidden is not None:
            more["verifier_weight"] = self.weigh(proposal.hidden, hidden[:, :-1])  # [B, G]
        return self.rule(proposal.ids, proposal.probs, self.rule_law(logits), self.streams, **more)


def _function(weight: Weight | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A weight as a function of both models' hidden states [B, G, D]."""
    if isinstance(weight, (int, float)):
        number = float(weight)
        return lambda drafts, _: torch.full(drafts.shape[:2], number, dtype=torch.float64, device=drafts.device)
    return weight
