"""Results on prompt suites, as the model card shows them."""

import json
from pathlib import Path
from typing import Any


def read_suites(path: Path) -> dict[str, dict[str, Any]]:
    """`suites` of an evaluation: {name: {tokens_per_cycle, low, high, prompts}}, of which only the first is required.

    Raises:
        ValueError: the file is missing or holds something else.
    """
    remedy = 'must hold {"suites": {"NAME": {"tokens_per_cycle": 1.9, "low": 1.8, "high": 2.0, "prompts": 80}}}'
    try:
        suites = json.loads(path.read_text())["suites"]
        figures = [one.get(name, 0) for one in suites.values() for name in ("low", "high")]
        figures += [one["tokens_per_cycle"] for one in suites.values()]
        good = all(isinstance(figure, int | float) for figure in figures)
    except FileNotFoundError:
        raise ValueError(f"evaluation={str(path)!r}: no such file; check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good or not suites:
        raise ValueError(f"evaluation={str(path)!r}: {remedy}")
    return suites
