"""The training and held-out rows of answers that stay on disk."""

from collections.abc import Callable
from dataclasses import dataclass

from drafter.answers import Answer
from drafter.config import DataConfig
from drafter.data.rows import Cuts, Row, RowMaker, is_held_out, loops_of, part_of, tell_of_cuts, validation_and_test
from drafter.data.stream import Stream, Survey
from drafter.verifier import VerifierHead

SAMPLE = 256


@dataclass(frozen=True)
class TrainingOnly:
    """Where an answer stands, and the answer → its row; None for held-out documents and where it has no room."""

    make: RowMaker
    validation_share: float

    def __call__(self, where: str, answer: Answer) -> Row | None:
        return None if is_held_out(answer["source"], self.validation_share) else self.make(where, answer)


@dataclass(frozen=True)
class RowsOnDisk:
    """Training rows on disk.

    Args:
        make: where an answer stands, and the answer → a row, or None for what is not trained on.
        survey: counts of all of them.
        sample: some of them.
        cuts: of the rows that were looked at for the sample and the held-out ones.
    """

    stream: Stream
    make: Callable[[str, Answer], Row | None]
    survey: Survey
    sample: list[Row]
    cuts: Cuts


def open_rows(
    stream: Stream, verifier: VerifierHead, data: DataConfig
) -> tuple[RowsOnDisk, tuple[list[Row], list[Row]]]:
    """Training rows of answers on disk, and the first validation and test rows, which are kept in memory.

    Raises:
        ValueError: there are no training or no held-out rows.
    """
    make = RowMaker.of(verifier, data.sequence_length, data.cut_loops)
    training = TrainingOnly(make, data.validation_share)
    found: dict[str, list[Row]] = {"training": [], "validation": [], "test": []}
    wanted = {"training": SAMPLE, "validation": data.validation_rows, "test": data.test_rows}
    whole: list[Row] = []
    looked_at: list[Answer] = []
    for where, answer in stream.in_order():
        if all(len(found[part]) >= count for part, count in wanted.items()):
            break
        part = part_of(answer["source"], data.validation_share)
        if len(found[part]) < max(SAMPLE, wanted[part]):
            looked_at.append(answer)
            whole.append(make.whole(where, answer))
            found[part] += filter(None, [whole[-1].cut(make.limit)])
    cuts = tell_of_cuts(whole, [row.cut(make.limit) for row in whole], make, loops_of(looked_at))
    held_out = validation_and_test(
        found["validation"] + found["test"], data.validation_share, data.validation_rows, data.test_rows
    )
    if not found["training"]:
        raise ValueError(
            f"data.validation_share={data.validation_share}: leaves no training rows with room for an answer; "
            "lower it, raise data.sequence_length or add documents"
        )
    survey = stream.survey(make.vocabulary, lambda source: is_held_out(source, data.validation_share))
    return RowsOnDisk(stream, training, survey, found["training"], cuts), held_out
