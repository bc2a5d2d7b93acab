"""Leviathan's theory beside the clock: a pair's speed-up by its acceptance rate and its passes, and as it is."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from drafter.decode import Generation
from drafter.decode.pair import Pair
from drafter.decode.proposers import make_proposer
from drafter.decode.sampling import Law
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.race import race, timed
from drafter.evaluation.theory import expected_tokens, length_in_theory, speedup
from drafter.models.base import Drafter
from drafter.verification.base import uniforms
from drafter.verifier import Verifier


@dataclass(frozen=True)
class Prediction:
    """What theory says at the acceptance rate and the passes that were measured, and what was measured.

    Attributes:
        acceptance_rate: drafts kept over drafts judged, one number for all slots.
        cost: of a drafted token over a verifier's pass over one token.
        verify: of a pass over the whole draft over one over one token.
        tokens, speedup: of a cycle; over plain decoding. `measured_tokens`, `measured_speedup` are the decoder's.
        best_length: draft length that theory would take, at these costs.
    """

    draft_length: int
    acceptance_rate: float
    cost: float
    verify: float
    tokens: float
    measured_tokens: float
    speedup: float
    measured_speedup: float
    best_length: int

    def __str__(self) -> str:
        share = self.measured_speedup / self.speedup
        return (
            f"theory at alpha {self.acceptance_rate:.3f}, {self.draft_length} drafts of cost {self.cost:.3f}, a "
            f"pass of {self.verify:.2f}: {self.tokens:.2f} tokens per cycle (measured {self.measured_tokens:.2f}), "
            f"speed-up {self.speedup:.2f} (measured {self.measured_speedup:.2f}, {share:.2f} of it); "
            f"best draft length {self.best_length}"
        )


class Passes:
    """A cycle's passes alone, of one row with any drafter: a draft, the verifier over one token, and over the draft."""

    @torch.inference_mode()
    def __init__(self, verifier: Verifier, drafter: Drafter, length: int, prompt: Sequence[int], law: Law):
        self.law, self.length, self.context = law, length, len(prompt)
        self.proposer = make_proposer(verifier, drafter, length)
        self.pair = Pair(verifier, self.proposer, 1, len(prompt) + length + 2, 1 + length)
        self.pair.prefill([0], prompt)
        self.anchors = torch.tensor([[prompt[-1]]], device=verifier.device)
        self.ids = self.anchors.expand(1, 1 + length).contiguous()
        self.noise = uniforms((1, length), torch.Generator(verifier.device), verifier.device)
        self.seconds: dict[str, list[float]] = {"draft": [], "one": [], "block": []}

    @torch.inference_mode()
    def measure(self) -> None:
        """Take each pass once more, behind one that is not timed, as `Parts` does."""
        device = self.anchors.device
        self.pair.set_lengths([self.context])
        self._one()
        for name, run in (("draft", self._draft), ("one", self._one), ("block", self._block)):
            self.pair.set_lengths([self.context])
            self.seconds[name].append(timed(device, run)[0])

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def _draft(self) -> object:
        return self.proposer.propose(self.pair.state, self.anchors, self.law, self.noise, laws=True)

    def _one(self) -> object:
        return self.law(self.pair.verifier.logits(self.pair.verify(self.anchors)[0]))

    def _block(self) -> object:
        return self.law(self.pair.verifier.logits(self.pair.verify(self.ids)[0]))


def predict(
    verifier: Verifier,
    drafter: Drafter,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    *,
    draft_length: int | None = None,
    temperature: float = 1.0,
    repeats: int = 3,
) -> Prediction:
    """Decode prompts one by one, plainly and by speculative sampling, and measure the passes in between."""
    length = draft_length or drafter.draft_length
    passes = Passes(verifier, drafter, length, prompts[0], Law(temperature))
    passes.measure()  # warm up
    for kept in passes.seconds.values():
        kept.clear()
    ways = {
        "plain": Decoding(temperature).decoder(verifier, None, None),
        "drafts": Decoding(temperature, rule="speculative_sampling").decoder(verifier, drafter, length),
    }
    found = race(ways, [[prompt] for prompt in prompts], max_new_tokens, repeats, verifier.device, passes.measure)
    rate = acceptance_rate(found["drafts"].answers)
    cost, verify = passes.median("draft") / length / passes.median("one"), passes.median("block") / passes.median("one")

    def between(drafts: int) -> float:  # passes of other widths, on a line
        return 1 + (verify - 1) * drafts / length

    return Prediction(
        length,
        rate,
        cost,
        verify,
        expected_tokens(rate, length),
        found["drafts"].tokens_per_cycle,
        speedup(rate, length, cost, verify=verify),
        found["plain"].seconds_per_token / found["drafts"].seconds_per_token,
        length_in_theory(rate, cost, 2 * length, between),
    )


def acceptance_rate(answers: Sequence[Generation]) -> float:
    """Drafts kept over drafts judged: in each cycle those kept and, if one was, the one that was not."""
    kept = sum(sum(one.accepted) for one in answers)
    judged = sum(sum(map(min, one.emitted, one.drafted)) for one in answers)
    return kept / max(1, judged)
