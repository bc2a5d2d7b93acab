"""Training rows: a prompt in its chat template, the verifier's answer behind it, and which of both is supervised."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drafter.answers import Answer, asked
from drafter.data.loops import before_repeating, cut_loop
from drafter.verifier import VerifierHead
from drafter.verifier.chat import prompt_ids
from drafter.verifier.thoughts import empty_thought

log = logging.getLogger(__name__)

Span = tuple[int, int]


@dataclass(frozen=True)
class Row:
    """Token ids of one conversation.

    Args:
        spans: what the verifier wrote, half-open token ranges in ascending order: only these are supervised.
        source: document that it comes from.
    """

    ids: list[int]
    spans: tuple[Span, ...]
    source: str = ""
    kind: str = ""

    @classmethod
    def of(cls, prompt: list[int], answer: list[int], source: str = "", kind: str = "") -> "Row":
        """One prompt with its answer behind it."""
        return cls(prompt + answer, ((len(prompt), len(prompt) + len(answer)),), source, kind)

    @property
    def start(self) -> int:
        """Where the first answer begins."""
        return self.spans[0][0]

    @property
    def answer(self) -> list[int]:
        """The supervised tokens."""
        return [token for start, end in self.spans for token in self.ids[start:end]]

    def cut(self, length: int) -> "Row | None":
        """The first `length` tokens; None where no span keeps an anchor and a token to predict."""
        spans = tuple((start, min(end, length)) for start, end in self.spans if min(end, length) - start >= 2)
        return Row(self.ids[:length], spans, self.source, self.kind) if spans else None


@dataclass(frozen=True)
class Rows:
    """Right-padded rows of a batch.

    Args:
        ids: [B, S].
        supervised: bool [B, S], True at answer tokens.
        documents: number of each position's document in its row, -1 at padding, [B, S]; None where a row is one.
    """

    ids: Tensor
    supervised: Tensor
    documents: Tensor | None = None

    def pin_memory(self) -> "Rows":
        """A copy that a GPU takes without the host's waiting; a loader asks for it by this name."""
        documents = None if self.documents is None else self.documents.pin_memory()
        return Rows(self.ids.pin_memory(), self.supervised.pin_memory(), documents)

    def to(self, device: torch.device) -> "Rows":
        ahead = torch.device(device).type == "cuda"  # the device waits for the copy, the host need not
        documents = None if self.documents is None else self.documents.to(device, non_blocking=ahead)
        return Rows(self.ids.to(device, non_blocking=ahead), self.supervised.to(device, non_blocking=ahead), documents)


@dataclass(frozen=True)
class RowMaker:
    """Makes rows of answers; holds what of a verifier that takes, so that a process without weights can do it.

    Args:
        vocabulary: ids that there are.
        limit: longer rows are cut: the verifier reads no more, or the recipe wants no more.
        cut_loops: of an answer that ends in a loop, what only repeats is left out.
    """

    tokenizer: Any
    keep_reasoning: bool
    vocabulary: int
    limit: int
    cut_loops: bool = False

    @classmethod
    def of(cls, verifier: VerifierHead, sequence_length: int, cut_loops: bool = False) -> "RowMaker":
        limit = min(sequence_length, verifier.context_length)
        return cls(verifier.tokenizer, verifier.keep_reasoning, verifier.head.shape[0], limit, cut_loops)

    def whole(self, where: str, answer: Answer) -> Row:
        """The answer behind its prompt in the chat template.

        Supervised is what was written; not a thought without a word that a template put there.

        Args:
            where: the answer stands, for errors.
        Raises:
            ValueError: it was made by another vocabulary.
        """
        messages, tools = asked(answer)
        prompt = prompt_ids(self.tokenizer, messages, tools=tools, keep_reasoning=self.keep_reasoning)
        ids = cut_loop(answer["answer_ids"]) if self.cut_loops else answer["answer_ids"]
        if ids and not 0 <= min(ids) <= max(ids) < self.vocabulary:
            raise ValueError(
                f"data.answers: {where} holds an id outside the verifier's vocabulary of {self.vocabulary}"
            )
        start = len(prompt) + empty_thought(self.tokenizer, ids)
        return Row([*prompt, *ids], ((start, len(prompt) + len(ids)),), answer["source"], answer["kind"])

    def __call__(self, where: str, answer: Answer) -> Row | None:
        """The row, cut; None where its answer has no room. Raises as `whole` does."""
        return self.whole(where, answer).cut(self.limit)


@dataclass(frozen=True)
class Cuts:
    """What the limit on a row's length took, and what loops do.

    Args:
        looked_at: rows; left_out: of them, those without room for their answer; cut: those that lost a part of it.
        limit: tokens of a row at most.
        loops: rows whose answer ends in a loop, cut or not.
    """

    looked_at: int
    left_out: int
    cut: int
    limit: int
    loops: int = 0


def make_rows(
    answers: list[Answer], verifier: VerifierHead, sequence_length: int, cut_loops: bool = False
) -> list[Row]:
    """The rows of `rows_and_cuts`."""
    return rows_and_cuts(answers, verifier, sequence_length, cut_loops)[0]


def rows_and_cuts(
    answers: list[Answer], verifier: VerifierHead, sequence_length: int, cut_loops: bool = False
) -> tuple[list[Row], Cuts]:
    """Put each answer behind its prompt in the verifier's chat template, cut at `sequence_length`.

    Raises:
        ValueError: an answer was made by another vocabulary, or no row has room for its answer.
    """
    make = RowMaker.of(verifier, sequence_length, cut_loops)
    whole = [make.whole(f"row {number}", answer) for number, answer in enumerate(answers)]
    rows = [row.cut(make.limit) for row in whole]
    cuts = tell_of_cuts(whole, rows, make, loops_of(answers))
    made = [row for row in rows if row]
    if not made:
        raise ValueError(f"data.sequence_length={make.limit}: no row has room for its answer; raise it")
    return made, cuts


def loops_of(answers: Iterable[Answer]) -> int:
    """How many answers end in a loop."""
    return sum(before_repeating(one["answer_ids"]) < len(one["answer_ids"]) for one in answers)


def tell_of_cuts(whole: Sequence[Row], rows: Sequence[Row | None], make: RowMaker, loops: int) -> Cuts:
    """Count, and say, how many rows lost their answer, or a part of it, to the cut at the limit; name the first. Say
    how many answers end in a loop."""
    limit = make.limit
    lost = [before for before, row in zip(whole, rows, strict=True) if row is None]
    cut = [before for before, row in zip(whole, rows, strict=True) if row and len(row.ids) < len(before.ids)]
    for found, what in ((lost, "have no room for their answer and are left out"), (cut, "lose a part of it")):
        if found:
            log.warning(
                "data.sequence_length=%d: %d of %d rows %s, the first of %r (%d tokens)",
                *(limit, len(found), len(whole), what, found[0].source, len(found[0].ids)),
            )
    if loops:
        said = (
            "of which only the first round is kept"
            if make.cut_loops
            else "data.cut_loops=true keeps its first round alone"
        )
        log.info("%d of %d answers end in a loop; %s", loops, len(whole), said)
    return Cuts(len(whole), len(lost), len(cut), limit, loops)


def is_held_out(source: str, validation_share: float) -> bool:
    """Whether a source document is held out: by a hash of its name, so wholly, and whatever else there is."""
    return int.from_bytes(hashlib.sha256(source.encode()).digest()[:4]) < validation_share * 2**32


def part_of(source: str, validation_share: float) -> str:
    """`training`, `validation` or `test`: half of the documents held out choose, the other half give the headline."""
    if not is_held_out(source, validation_share):
        return "training"
    return "test" if is_held_out(source, validation_share / 2) else "validation"


def split(rows: list[Row], validation_share: float) -> tuple[list[Row], list[Row]]:
    """Training and held-out rows; a source document is wholly in one of them.

    Raises:
        ValueError: one side is empty.
    """
    training = [row for row in rows if not is_held_out(row.source, validation_share)]
    validation = [row for row in rows if is_held_out(row.source, validation_share)]
    if not training or not validation:
        raise ValueError(
            f"data.validation_share={validation_share}: leaves {len(training)} training and {len(validation)} "
            "held-out rows; change it or add documents"
        )
    return training, validation


def validation_and_test(
    held_out: list[Row], validation_share: float, validation_rows: int, test_rows: int
) -> tuple[list[Row], list[Row]]:
    """Validation rows, which choose the checkpoint, and test rows, which give the headline; an answer each.

    Raises:
        ValueError: one side is empty.
    """
    rows = one_answer_each(held_out)
    validation, test = (
        [row for row in rows if part_of(row.source, validation_share) == part] for part in ("validation", "test")
    )
    if not validation or not test:
        raise ValueError(
            f"data.validation_share={validation_share}: of the documents held out, {len(validation)} rows are for "
            f"validation and {len(test)} for the test; raise it or add documents"
        )
    return validation[:validation_rows], test[:test_rows]


def one_answer_each(rows: list[Row]) -> list[Row]:
    """A row per span, the conversation before it as its prompt: what a walk along answers, or decoding, starts from."""
    return [Row(row.ids[:end], ((start, end),), row.source, row.kind) for row in rows for start, end in row.spans]


def pad(rows: list[Row]) -> Rows:
    """Right-pad rows into a batch."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    supervised = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        for start, end in row.spans:
            supervised[i, start:end] = True
    return Rows(ids, supervised)
