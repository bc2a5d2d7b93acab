"""A cache for verifiers some of whose layers keep a state in place of keys and values: linear attention, convolutions.

A state can't be rewound. So the one at the last commit is kept beside the one behind the last pass: a row that keeps
all of that pass takes the latter, a row that keeps a part replays that part from the former, which is one more pass.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin

from drafter.attention import KVCache

RECURRENT = {"linear_attention", "conv", "hybrid", "hybrid_sliding"}
"""Kinds of layers, as transformers' configs name them, that keep a state."""

Key = tuple[int, str, int]  # layer, which of its two kinds of state, and which of those


class Recurrence(DynamicCache):
    """What recurrent layers read and write in one pass; keys and values pass by, to the cache of `over`."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return query_length, 0

    def tensors(self) -> dict[Key, Tensor]:
        """All states, [B, ...] each."""
        return {
            (index, kind, number): state
            for index, layer in enumerate(self.layers)
            if isinstance(layer, LinearAttentionCacheLayerMixin)
            for kind in ("conv_states", "recurrent_states")
            for number, state in getattr(layer, kind).items()
            if state is not None
        }

    def fill(self, states: dict[Key, Tensor]) -> None:
        """Begin with copies of `states`."""
        for (index, kind, number), state in states.items():
            layer: Any = self.layers[index]
            getattr(layer, kind)[number] = state.clone()
            getattr(layer, f"is_{kind}_initialized")[number] = True
            layer.has_previous_state[number] = True
            if kind == "conv_states":
                layer.conv_kernel_size[number] = state.shape[-1]
            layer.dtype, layer.device = state.dtype, state.device


@dataclass
class Memory:
    """States of all rows of a cache, which views of single rows share.

    Attributes:
        kept, ended: behind the last commit, and behind the last pass, [B, ...] each; empty before the first pass.
        read: tokens behind which each row's `kept` stands.
        passed: ids of each row's last pass, until it is committed.
    """

    rows: int
    kept: dict[Key, Tensor] = field(default_factory=dict)
    ended: dict[Key, Tensor] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)
    passed: list[Tensor | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.read, self.passed = [0] * self.rows, [None] * self.rows

    def of(self, rows: list[int]) -> "Memory":
        """That of `rows` alone."""
        kept, ended = ({key: state[rows] for key, state in each.items()} for each in (self.kept, self.ended))
        few = Memory(len(rows), kept, ended)
        few.read, few.passed = [self.read[row] for row in rows], [self.passed[row] for row in rows]
        return few

    def put(self, states: dict[Key, Tensor], rows: list[int]) -> None:
        """Remember what a pass over `rows` ended with."""
        for key, state in states.items():
            if key not in self.kept:
                self.kept[key], self.ended[key] = (state.new_zeros(self.rows, *state.shape[1:]) for _ in range(2))
            self.ended[key][rows] = state

    def keep(self, rows: list[int], states: dict[Key, Tensor] | None = None) -> None:
        """Let `kept` of `rows` be `states` (of these rows), or what the last pass ended with."""
        for key, kept in self.kept.items():
            kept[rows] = self.ended[key][rows] if states is None else states[key]

    def forget(self, row: int) -> None:
        """Row `row` has read nothing."""
        for kept in self.kept.values():
            kept[row] = 0
        self.read[row], self.passed[row] = 0, None


class RecurrentCache(KVCache):
    """Keys and values as in `KVCache`, and the states of recurrent layers.

    Args:
        config: the model's.
        step: (ids [B, Q], cache) runs a pass.
        more: as for `KVCache`.
    """

    def __init__(self, config: Any, step: Callable[[Tensor, KVCache], Any], *more: Any):
        super().__init__(*more)
        self._config, self._step, self._memory, self._rows = config, step, Memory(self.batch), list(range(self.batch))

    def row(self, index: int) -> "RecurrentCache":
        view: Any = super().row(index)
        view._config, view._step, view._memory, view._rows = self._config, self._step, self._memory, [index]
        self._memory.forget(index)
        return view

    def copy_row(self, source: int, rows: list[int], length: int) -> None:
        super().copy_row(source, rows, length)
        for kept in self._memory.kept.values():
            kept[rows] = kept[source].clone()
        for row in rows:
            self._memory.read[row], self._memory.passed[row] = length, None

    def shrink(self, rows: list[int]) -> None:
        super().shrink(rows)
        self._memory, self._rows = self._memory.of(rows), list(range(len(rows)))

    @contextmanager
    def passing(self, ids: Tensor) -> Iterator[Recurrence]:
        """States for a pass over `ids` [B, Q], which are remembered behind it."""
        states = Recurrence(config=self._config)
        states.fill({key: kept[self._rows] for key, kept in self._memory.kept.items()})
        yield states
        self._memory.put(states.tensors(), self._rows)
        for row, each in zip(self._rows, ids, strict=True):
            self._memory.passed[row] = each.clone()

    def set_lengths(self, lengths: list[int]) -> None:
        """Commit exactly `lengths` tokens of each row: none, or what it had and a beginning of its last pass.

        Raises:
            ValueError: a row would have to be rewound further.
        """
        memory, parts = self._memory, dict[int, list[int]]()
        for place, (row, length) in enumerate(zip(self._rows, lengths, strict=True)):
            new, passed = length - memory.read[row], memory.passed[row]
            if not length:
                memory.forget(row)
            elif passed is not None and new == len(passed):
                memory.keep([row])
            elif passed is not None and 0 < new < len(passed):
                parts.setdefault(new, []).append(place)
            elif new and memory.kept:  # before the first pass, any length is what a measurement makes believe
                raise ValueError(
                    f"cache: recurrent layers stand behind {memory.read[row]} tokens of a row, which can't become "
                    f"{length}"
                )
        if parts:
            self._replay(parts, lengths)
        for row, length in zip(self._rows, lengths, strict=True):
            memory.read[row], memory.passed[row] = length, None
        super().set_lengths(lengths)

    def _replay(self, parts: dict[int, list[int]], lengths: list[int]) -> None:
        """Run the first tokens of the last pass again: number of them → places of the rows that keep so many.

        The other rows run along, in slots behind what will be committed of them.
        """
        memory, starts = self._memory, list(lengths)
        ids = torch.zeros(len(starts), max(parts), dtype=torch.long, device=self.lengths.device)
        for count, places in parts.items():
            for place in places:
                starts[place] -= count
                ids[place, :count] = memory.passed[self._rows[place]][:count]  # type: ignore[index]
        kept = {key: state[self._rows] for key, state in memory.kept.items()}
        done, found = 0, dict[int, dict[Key, Tensor]]()
        for count in sorted(parts):
            super().set_lengths([start + done for start in starts])
            self._step(ids[:, done:count], self)
            done, found[count] = count, {key: state[self._rows] for key, state in memory.ended.items()}
            memory.keep(self._rows, found[count])
        memory.keep(self._rows, kept)
        for count, places in parts.items():
            for place in places:
                memory.keep([self._rows[place]], {key: state[[place]] for key, state in found[count].items()})

    def advance(self, count: int) -> None:
        self.set_lengths([self._memory.read[row] + count for row in self._rows])

    def branching(self, depths: Tensor, ancestors: Tensor) -> Any:
        raise ValueError("tree_nodes: recurrent layers read tokens in a row and no tree; leave it out")


@contextmanager
def remembering(body: Any, cache: KVCache, ids: Tensor) -> Iterator[dict[str, Any]]:
    """Arguments for a pass of `body` over a cache: with the states that recurrent layers begin with, if there are."""
    if not isinstance(cache, RecurrentCache):
        yield {"use_cache": False}
        return
    with cache.passing(ids) as states:
        named = inspect.signature(body.forward).parameters
        yield {"cache_params" if "cache_params" in named else "past_key_values": states, "use_cache": True}
