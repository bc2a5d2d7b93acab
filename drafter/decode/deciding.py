"""From the models' states to tokens: the sampling settings, the rule and the random numbers of one `generate` call."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from drafter.attention import KVCache
from drafter.decode.drafting import Drafts, Proposer
from drafter.decode.row import Row
from drafter.decode.sampling import check, probabilities
from drafter.verification import Rule, Verification, has_greedy_form, is_lossless, match, needs, sample
from drafter.verification.base import inverse_cdf, uniforms
from drafter.verifier import Verifier

Weight = float | Callable[[Tensor, Tensor], Tensor]


class Decider:
    """Draws drafts and decides which of them stay.

    Args:
        rule: at temperature 0 a lossless one is `match`, and a lossy one takes its own greedy form where it has one:
            argmax drafts, and the laws of temperature 1, without top-p and top-k. Without a drafter every rule is
            `match`, unless it keeps noise.
        temperature, top_p, top_k: of both models' laws.
        seed: of everything that is random; where the rule keeps noise, perhaps one for each answer's.
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
        settings: tuple[float, float, int],
        seed: int | Sequence[int],
        verifier_weight: Weight | None = None,
        prompts: int = 0,
        limit: int = 0,
    ) -> None:
        check(*settings)
        self.verifier, self.proposer, self.settings, self.verifier_weight = (
            verifier,
            proposer,
            settings,
            verifier_weight,
        )
        common, each = (seed, None) if isinstance(seed, int) else (0, seed)
        self.generator = torch.Generator(verifier.device).manual_seed(common)
        self.greedy = settings[0] == 0
        made_greedy = getattr(rule, "keywords", {}).get("greedy", False)  # a partial's
        if made_greedy and not self.greedy:
            raise ValueError(f"temperature={settings[0]}: the rule was made with greedy=True; use temperature 0")
        keeps_noise = "noise" in needs(rule) and not self.greedy
        plain = (self.greedy and is_lossless(rule)) or (proposer is None and not keeps_noise)
        self.rule = match if plain else rule
        self.weigh = _function(verifier_weight) if "verifier_weight" in needs(self.rule) else None
        self.own_greedy = self.greedy and has_greedy_form(self.rule)
        self.noise: Tensor | None = None
        if keeps_noise and each is not None:
            own = [uniforms((limit,), torch.Generator().manual_seed(one), verifier.device) for one in each]
            self.noise = torch.stack(own)  # [prompts, limit]
        elif keeps_noise:
            self.noise = uniforms((prompts, limit), self.generator, verifier.device)  # [prompts, limit]

    def laws(self, logits: Tensor) -> Tensor:
        """The laws of logits [..., V] that the rule takes."""
        return probabilities(logits) if self.own_greedy else probabilities(logits, *self.settings)

    def noise_at(self, rows: Sequence[Row | None], count: int) -> Tensor | None:
        """Numbers of the next `count` places of each row, [B, count]; past the end, where nothing is kept, the last."""
        if self.noise is None:
            return None
        prompts = torch.tensor([row.index if row else 0 for row in rows], device=self.noise.device)
        first = torch.tensor([len(row.result.token_ids) if row else 0 for row in rows], device=self.noise.device)
        places = first[:, None] + torch.arange(count, device=self.noise.device)  # [B, count]
        return self.noise[prompts[:, None], places.clamp(max=self.noise.shape[1] - 1)]

    def first(self, rows: Sequence[Row], hidden: Tensor) -> list[int]:
        """The first token of each row's answer, given the verifier's state [1, D] behind the prompt that they share."""
        law = probabilities(self.verifier.logits(hidden), *self.settings).expand(len(rows), -1)  # [B, V]
        noise = self.noise_at(rows, 1)
        return (sample(law, self.generator) if noise is None else inverse_cdf(law, noise[:, 0])).tolist()

    def draft(
        self, proposer: Proposer, anchors: Tensor, cache: KVCache, noise: Tensor | None, confident: bool = False
    ) -> Drafts:
        """Propose a block behind the anchors [B, 1]; with confidences, if asked for."""
        hidden = proposer.hidden(anchors, cache)  # [B, G, D]
        logits = proposer.logits(hidden)  # [B, G, V']
        if self.rule is match:
            sure = self.scores_of(logits).amax(-1).exp() if confident else None  # [B, G]
            return Drafts(proposer.ids(logits.argmax(-1)), confidences=sure)
        laws = self.laws(proposer.whole(logits))  # [B, G, V]
        sure = laws.amax(-1) if confident else None
        if self.own_greedy:
            return Drafts(laws.argmax(-1), laws, hidden, sure)
        ids = sample(laws, self.generator) if noise is None else inverse_cdf(laws, noise[:, :-1])  # [B, G]
        return Drafts(ids, laws, hidden, sure)

    def scores_of(self, logits: Tensor) -> Tensor:
        """Log-probabilities of draft logits [..., V'] at the temperature, which is 1 when greedy."""
        return (logits.float() / (self.settings[0] or 1.0)).log_softmax(-1)

    def scores(self, proposer: Proposer, anchors: Tensor, cache: KVCache) -> Tensor:
        """Log-probabilities of the slots behind the anchors [B, 1], over what may be proposed: [B, G, V']."""
        return self.scores_of(proposer.logits(proposer.hidden(anchors, cache)))

    def own(self, hidden: Tensor, noise: Tensor | None) -> Tensor:
        """The verifier's own token behind each of its states: [B, Q, D] -> [B, Q]."""
        logits = self.verifier.logits(hidden)  # [B, Q, V]
        if self.greedy:
            return logits.argmax(-1)
        laws = self.laws(logits)
        return sample(laws, self.generator) if noise is None else inverse_cdf(laws, noise)

    def decide(self, drafts: Drafts, hidden: Tensor, noise: Tensor | None) -> Verification:
        """Apply the rule to drafts, given the verifier's states [B, 1+G, D] of the anchor and the drafts."""
        logits = self.verifier.logits(hidden)  # [B, 1+G, V]
        if self.greedy and self.rule is match:  # the law is one-hot: compare ids and skip the vocabulary
            choice = logits.argmax(-1)  # [B, 1+G]
            accepted = (choice[:, :-1] == drafts.ids).cumprod(-1).sum(-1)  # [B]
            return Verification(accepted, choice.gather(1, accepted[:, None])[:, 0])
        more: dict[str, Any] = {"greedy": True} if self.own_greedy else {}
        if noise is not None:
            more["noise"] = noise
        if self.weigh is not None and drafts.hidden is not None:
            more["verifier_weight"] = self.weigh(drafts.hidden, hidden[:, :-1])  # [B, G]
        return self.rule(drafts.ids, drafts.probs, self.laws(logits), self.generator, **more)


def _function(weight: Weight | None) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A weight as a function of both models' hidden states [B, G, D]."""
    if isinstance(weight, (int, float)):
        number = float(weight)
        return lambda drafts, _: torch.full(drafts.shape[:2], number, dtype=torch.float64, device=drafts.device)
    return weight
