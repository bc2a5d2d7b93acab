"""Text → rows of tokens: documents end to end, the end of text between them, cut where a row is full."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from drafter.config import TextConfig, require
from drafter.data.rows import is_held_out
from drafter.sources.texts import Document


@dataclass(frozen=True)
class TextRows:
    """Rows of one length.

    Attributes:
        training, held_out: ids, [rows, S] int32; no document is in both.
        documents: how many there were.
    """

    training: Tensor
    held_out: Tensor
    documents: int


def read_documents(text: TextConfig) -> list[Document]:
    """All documents of all sources.

    Raises:
        ValueError: a source is missing, or there is no document.
    """
    found = [each for source in text.sources for each in source.documents()]
    require(len(found) >= 2, "text.sources", text.sources, f"hold {len(found)} documents; at least two are needed")
    return found


def make_text_rows(documents: Iterable[Document], tokenizer: Any, text: TextConfig) -> TextRows:
    """Tokenise and cut.

    Raises:
        ValueError: the tokenizer has no end of text, or too little text for a row of each kind.
    """
    end = tokenizer.eos_token_id
    require(end is not None, "tokenizer.eos_token_id", end, "documents need an end between them; choose another")
    streams: tuple[list[int], list[int]] = ([], [])
    count = 0
    for name, written in documents:
        count += 1
        stream = streams[is_held_out(name, text.validation_share)]
        stream += tokenizer.encode(written, add_special_tokens=False)
        stream.append(end)
    training, kept = (_cut(stream, text.sequence_length) for stream in streams)
    for what, rows in (("training", training), ("held-out", kept)):
        remedy = f"{count} documents make no {what} row of that length; lower it or name more text"
        require(len(rows) > 0, "text.sequence_length", text.sequence_length, remedy)
    return TextRows(training, kept[: text.validation_rows], count)


def _cut(stream: list[int], length: int) -> Tensor:
    whole = len(stream) // length * length
    return torch.tensor(stream[:whole], dtype=torch.int32).view(-1, length)  # [R, S]
