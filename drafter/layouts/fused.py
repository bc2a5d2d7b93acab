"""Projections that someone stored as one tensor, read as the parts that they are made of."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from drafter.layouts.weights import Weights

QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


class Unfused(Weights):
    """The tensors of a directory, with `qkv_proj` and `gate_up_proj` in parts: rows one after another.

    Args:
        whole: as they are stored.
        facts: of the drafter; they say how many rows each part has.
    Raises:
        ValueError: a projection is there twice, by itself and in a fused one.
    """

    def __init__(self, whole: Weights, facts: Mapping[str, Any]):
        self._whole = whole
        query, key = (
            facts.get(f"num_{kind}_heads", 0) * facts.get("head_dim", 0) for kind in ("attention", "key_value")
        )
        inner = facts.get("intermediate_size", 0)
        rows = {
            "qkv_proj": dict(zip(QKV, (query, key, key), strict=True)),
            "gate_up_proj": dict.fromkeys(GATE_UP, inner),
        }
        self._parts: dict[str, tuple[str, slice | None]] = {}  # name → where it is stored, and its rows there
        for name in whole:
            fused = next((kind for kind in rows if f".{kind}." in name), None)
            parts = rows[fused] if fused else {}
            if not fused or whole.shape(name)[:1] != (sum(parts.values()),):
                self._enter(name, name, None)
                continue
            at = 0
            for part, count in parts.items():
                self._enter(name.replace(fused, part), name, slice(at, at + count))
                at += count

    def _enter(self, name: str, stored: str, rows: slice | None) -> None:
        if name in self._parts:
            raise ValueError(f"{name}: is stored twice, the other time in a fused projection; export again")
        self._parts[name] = (stored, rows)

    def __getitem__(self, name: str) -> Tensor:
        stored, rows = self._parts[name]
        return self._whole[stored] if rows is None else self._whole[stored][rows]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        stored, rows = self._parts[name]
        shape = self._whole.shape(stored)
        return shape if rows is None else (rows.stop - rows.start, *shape[1:])

    def code(self, name: str) -> str:
        return self._whole.code(self._parts[name][0])
