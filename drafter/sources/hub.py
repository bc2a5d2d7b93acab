"""Data sets of the Hugging Face hub, or saved by `datasets` in a directory; whole or streamed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from drafter.sources.base import BadRow, BadRows, Conversation, Source
from drafter.sources.records import Fields, conversation_of, without_nulls


@dataclass
class Hub(Source):
    """Rows of a data set.

    Args:
        dataset: name on the hub, or a directory: one of files, or one that `save_to_disk` wrote.
        configuration: of the data set, where it has several.
        split: of the data set.
        streaming: read rows as they are needed; nothing is kept on disk.
        field, answer, document: as of a file.
        limit: rows read, the first ones; null for all.
    """

    kind: str = "hub"
    dataset: str = ""
    configuration: str | None = None
    split: str = "train"
    streaming: bool = False
    field: str | None = None
    answer: str | None = None
    document: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        self.require(bool(self.dataset), "dataset", "name a data set of the hub, or a directory of one")
        self.require(self.limit is None or self.limit >= 1, "limit", "must be >= 1, or null")

    def conversations(self, seed: int, bad: BadRows) -> Iterator[Conversation]:
        """Every row, in order; raises where there is no such data set or split, or reading ends half way."""
        fields = Fields(self.field, self.answer, self.document)
        name = Path(self.dataset).name
        where = "data.sources", self.dataset, self.configuration, self.split, self.streaming, self.limit
        for number, record in enumerate(rows_of(*where), 1):
            try:
                yield conversation_of(without_nulls(record), fields, name, number)
            except BadRow as error:
                bad.add(f"{self.dataset}, row {number}", error)


def rows_of(
    section: str, dataset: str, configuration: str | None, split: str, streaming: bool, limit: int | None
) -> Iterator[Any]:
    """The first rows of a data set, by its name on the hub or a directory.

    Args:
        section: of the recipe, for errors.
        limit: how many; None for all.
    Raises:
        ValueError: there is no such data set or split, or reading ends half way.
    """
    import datasets  # late: it takes a second, and most recipes do not need it
    from datasets.exceptions import DatasetsError

    folder = Path(dataset)
    try:
        if (folder / "state.json").is_file():
            found: Any = datasets.load_from_disk(dataset)
        elif (folder / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(dataset)[split]
        else:
            found = datasets.load_dataset(dataset, configuration, split=split, streaming=streaming)
        yield from islice(found, limit)
    except (OSError, ValueError, KeyError, DatasetsError) as error:  # pyarrow's errors are ValueErrors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{section}: dataset={dataset!r}, split={split!r}: can't be read ({reason}); check both, and the way to "
            "the hub"
        ) from None
