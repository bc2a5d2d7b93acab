"""Proposing by a push-forward model: the noise that the verifier will choose by, turned into tokens in one pass."""

from torch import Tensor, arange, full, tensor

from drafter.attention import KVCache
from drafter.decode.proposers.base import Proposal, Proposer
from drafter.decode.sampling import Law, likeliest
from drafter.models.push_forward import PushForwardModel, for_decoding
from drafter.verification import Rule, shared_noise
from drafter.verifier import Verifier


class Known:
    """What the model keeps of rows: their tokens, and keys and values of those that it has read.

    Attributes:
        ids: tokens at their places, [B, capacity]; on the device, which knows of a decision before the host does.
        lengths: tokens before the anchor of each row.
    """

    def __init__(self, cache: KVCache, ids: Tensor):
        self.cache, self.ids = cache, ids
        self.lengths = [0] * len(ids)

    def set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self.cache.set_lengths(lengths)

    def row(self, index: int) -> "Known":
        return Known(self.cache.row(index), self.ids[index : index + 1])

    def copy_row(self, source: int, rows: list[int], length: int) -> None:
        self.cache.copy_row(source, rows, length)
        self.ids[rows, :length] = self.ids[source, :length]

    def shrink(self, rows: list[int]) -> None:
        self.cache.shrink(rows)
        self.ids, self.lengths = self.ids[rows], [self.lengths[row] for row in rows]

    def places(self, starts: list[int], count: int) -> Tensor:
        """`count` places from each row's start on, [B, count]."""
        return tensor(starts, device=self.ids.device)[:, None] + arange(count, device=self.ids.device)


class PushForwardProposer(Proposer):
    """A push-forward model beside its verifier, for the rule `shared_noise`: its drafts have no law of their own.

    A pass takes in what the last cycle decided together with new noise: the last tokens of each row are read (some of
    them again, since the host may not know yet how many are new), and the noise behind them.

    Args:
        length: tokens proposed per cycle, at most as many as the model was trained to give.
    """

    tap_layers: tuple[int, ...] = ()

    def __init__(self, verifier: Verifier, model: PushForwardModel, length: int):
        self.model, self.length = for_decoding(model) if verifier.tiles else model, length
        self.kernel, self.replayed = verifier.kernel, verifier.replayed

    def check_rule(self, rule: Rule | None) -> Rule:
        """The rule for these drafts.

        Raises:
            ValueError: another is asked for.
        """
        if rule not in (None, shared_noise):
            raise ValueError("rule: a push-forward model's drafts have no law; use shared_noise, or leave it out")
        return shared_noise

    def check_law(self, law: Law) -> None:
        """Raise a ValueError unless the model was trained for this temperature."""
        self.model.check_temperature(law.temperature)

    def new_state(self, batch: int, tokens: int) -> Known:
        cache = self.model.new_cache(batch, tokens + 2 * self.length + 1, self.kernel, self.replayed)
        return Known(cache, full((batch, cache.capacity), 0, device=self.model.device))

    def read(self, state: Known, ids: Tensor, taps: Tensor | None) -> None:
        places = state.places(state.lengths, ids.shape[1])
        state.ids.scatter_(1, places, ids)
        self.model.extend(ids, state.cache)

    def commit(self, state: Known, ids: Tensor, taps: Tensor | None, accepted: Tensor) -> None:
        state.ids.scatter_(1, state.places(state.lengths, ids.shape[1]), ids)

    def propose(
        self,
        state: Known,
        anchors: Tensor,
        law: Law,
        noise: Tensor | None = None,
        *,
        laws: bool = False,
        confidences: bool = False,
    ) -> Proposal:
        if noise is None:  # of timings alone; the middle of every law
            noise = full((len(anchors), self.length), 0.5, device=anchors.device)
        state.ids.scatter_(1, state.places(state.lengths, 1), anchors)
        behind, starts = self.length, [max(0, length - self.length) for length in state.lengths]
        if any(0 < length < self.length for length in state.lengths):  # a row is shorter than what may be new of others
            state.cache.set_lengths(starts)
            self.model.extend(state.ids.gather(1, state.places(starts, self.length)), state.cache)
            behind, starts = 0, state.lengths
        state.cache.set_lengths(starts)
        ids = state.ids.gather(1, state.places(starts, behind + 1))  # [B, G + 1]
        warmth = full((len(ids),), law.temperature, device=ids.device)
        logits = self.model.logits(self.model.push(ids, noise, warmth, state.cache))  # [B, G, V]
        sure = law.scores(logits).amax(-1).exp() if confidences else None
        return Proposal(likeliest(logits), confidences=sure)
