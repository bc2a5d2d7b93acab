"""Which tokens a drafter may propose: the most frequent of a token count (FR-Spec, arXiv:2502.14856)."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from drafter.answers import open_answers


def most_frequent(counts: Mapping[int, int], number: int | None) -> list[int]:
    """The `number` most frequent tokens (None: all that occur), ascending; of equals the lower ids."""
    order = sorted((token for token, count in counts.items() if count), key=lambda token: (-counts[token], token))
    return sorted(order[:number])


def read_counts(path: Path) -> dict[int, int]:
    """How often each token occurs: in a JSON file `{"token id": count}`, or in the answers of a file or folder.

    Raises:
        ValueError: the file is missing, damaged, or neither of these; names it.
    """
    if path.suffix != ".json":
        found = open_answers(path)
        tables = (found.table(number) for number in range(len(found.files)))
        return Counter(token for table in tables for ids in table["answer_ids"].to_pylist() for token in ids)
    try:
        counts = {int(token): count for token, count in json.loads(path.read_text()).items()}
        good = all(token >= 0 and type(count) is int and count >= 0 for token, count in counts.items())
    except (OSError, ValueError, AttributeError):
        good, counts = False, {}
    if not good or not any(counts.values()):
        raise ValueError(f'{path}: must hold {{"token id": count, ...}}; check the path, or name answers')
    return counts


def draft_vocabulary(path: str, number: int | None, size: int) -> list[int]:
    """The `number` most frequent tokens that `path` counts, as ascending ids.

    Args:
        size: of the verifier's vocabulary.
    Raises:
        ValueError: as `read_counts`, or an id is none of the verifier's.
    """
    ids = most_frequent(read_counts(Path(path)), number)
    if ids[-1] >= size:
        raise ValueError(
            f"{path}: counts token {ids[-1]}, the verifier's ids end at {size - 1}; count with its tokenizer"
        )
    return ids
