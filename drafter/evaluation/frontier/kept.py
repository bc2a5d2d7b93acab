"""Ways that were measured already, in a file beside their map: a killed map goes on, another head joins it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from drafter.evaluation.frontier.points import Point, Setting
from drafter.evaluation.frontier.ways import Way
from drafter.evaluation.rewards import Task
from drafter.files import atomically, sha256_of
from drafter.models.ensemble_head import WEIGHTS


class Kept:
    """Points by the names of their ways: a line of JSON each, behind one that says what all of them were asked.

    All figures of a map but those of the clock follow from this file.

    Args:
        tasks, setting: what all ways have in common; the clock has no part in it.
        more: what else decides numbers, by name: models, reward.
    Raises:
        ValueError: the file holds answers to something else.
    """

    def __init__(self, path: Path, tasks: Sequence[Task], setting: Setting, **more: str):
        self.path = path
        how = {"setting": asdict(replace(setting, timed=0)), "tasks": [task.source for task in tasks]}
        self.asked: dict[str, Any] = {**more, **how}
        self.records: dict[str, dict[str, Any]] = {}
        if path.is_file():
            before, records = read(path)
            other = next((name for name, value in self.asked.items() if before.get(name) != value), None)
            if other:
                raise ValueError(f"out={str(path.parent)!r}: holds a map of other {other}; name another folder")
            self.records = {one["way"]["name"]: one for one in records}

    def of(self, way: Way) -> Point | None:
        """What was measured of a way; None where it was not, or by a head of other weights."""
        record = self.records.get(way.name)
        return point_of(record) if record and _told(way).items() <= record.items() else None

    def add(self, point: Point) -> None:
        """Put a point on the disk, in place of one of that name."""
        counts = {name: value.tolist() for name, value in point.counts.items()}
        self.records[point.way.name] = _told(point.way) | {"distinct_2": point.distinct_2, "counts": counts}
        lines = [{"asked": self.asked}, *self.records.values()]
        with atomically(self.path) as scratch:
            scratch.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all ways of a file were asked, and the record of each, for `point_of`."""
    first, *records = (json.loads(line) for line in path.read_text().splitlines())
    return first["asked"], records


def point_of(record: Mapping[str, Any]) -> Point:
    """The point of a way; no clock is in it."""
    counts = {name: torch.tensor(value, dtype=torch.float64) for name, value in record["counts"].items()}
    return Point(Way(**record["way"]), counts, record["distinct_2"])


def _told(way: Way) -> dict[str, Any]:
    """A way, and the weights of its head."""
    return {"way": asdict(way), "head": sha256_of(Path(way.head) / WEIGHTS) if way.head else ""}
