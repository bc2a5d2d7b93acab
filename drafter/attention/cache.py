"""Keys and values of a batch, preallocated, with a length per row."""

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from drafter.attention import flash, flash_cpu, plain, sdpa
from drafter.attention.replay import Graphs, Replay, Run
from drafter.config.verifier import KERNELS

log = logging.getLogger(__name__)
_logged: set[Hashable] = set()

STEP = 256  # replayed passes look at a multiple of as many slots, so that a few graphs serve all lengths


def choose_kernel(requested: str, device: torch.device, dtype: torch.dtype) -> str:
    """Turn `auto | sdpa | flash_attn | flash_cpu` into the kernel that will run.

    Raises:
        ValueError: a kernel is asked for where it can't run.
    """
    if requested not in KERNELS:
        raise ValueError(f"attention={requested!r}: choose {', '.join(KERNELS[:-1])} or {KERNELS[-1]}")
    if requested == "sdpa":
        return requested
    best = requested if requested != "auto" else "flash_cpu" if device.type == "cpu" else "flash_attn"
    reason = _why_not(best, device, dtype)
    if reason and requested != "auto":
        raise ValueError(f"attention={requested!r}: {reason}; use attention=sdpa")
    kernel = "sdpa" if reason else best
    if requested == "auto" and (kernel, reason) not in _logged:
        _logged.add((kernel, reason))
        log.info("attention kernel: %s%s", kernel, f" ({best} {reason})" if reason else "")
    return kernel


def _why_not(kernel: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why `flash_attn` or `flash_cpu` can't run, or None."""
    if kernel == "flash_attn":
        half = dtype in (torch.float16, torch.bfloat16)
        reason = None if half else f"needs half precision, not {dtype}"
        return "needs a CUDA device" if device.type != "cuda" else reason or flash.missing()
    reason = None if dtype == torch.bfloat16 else f"needs bfloat16, not {dtype}"
    return "needs a CPU" if device.type != "cpu" else reason or flash_cpu.missing()


Size = tuple[int, int]  # heads and width


class LayerShape(NamedTuple):
    """What one layer keeps of a token: key/value heads, and the widths of a key and of a value."""

    heads: int
    key: int
    value: int


class KVCache:
    """Keys [B, capacity, Hk, D] and values [B, capacity, Hk, D'] of each layer, and how many slots are committed.

    Rejecting a token is not advancing the row's length: the slot behind it is overwritten by the next write.

    Args:
        shapes: of each layer.
        batch, capacity: rows, and slots of a row.
        kernel: as `choose_kernel` returns it.
        replayed: whether passes over this cache become CUDA graphs, as `choose_replay` returns it.
    """

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        kernel: str = "sdpa",
        replayed: int = Replay.OFF,
    ):
        capacity = -(-capacity // STEP) * STEP if replayed else capacity
        self.batch, self.capacity, self._shapes = batch, capacity, tuple(shapes)

        def stacked(sizes: Iterable[Size]) -> dict[Size, Tensor]:
            counts = Counter(sizes).items()
            return {size: torch.zeros(n, batch, capacity, *size, dtype=dtype, device=device) for size, n in counts}

        self._keys = stacked((one.heads, one.key) for one in shapes)  # layers of one size are one tensor
        self._values = stacked((one.heads, one.value) for one in shapes)
        self._spread()
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.seqlens = torch.zeros(batch, dtype=torch.int32, device=device)  # the same, for flash-attn
        self.longest = 0  # known to the host, so that slicing needs no synchronisation
        self.kernel = kernel
        self.graphs = Graphs(replayed == Replay.REQUIRED) if replayed else None
        self.padded = False  # inside a pass that is replayed: nothing may depend on what the host knows of lengths
        self._masks: dict[tuple[int, bool, int | None], Tensor | None] = {}  # of the pass that comes
        self._places: dict[int, sdpa.Places] = {}  # of its new tokens
        self._branches: tuple[Tensor, Tensor] | None = None

    def _spread(self) -> None:
        """Give each layer its part of the tensors."""
        keys, values = ({size: iter(stack) for size, stack in each.items()} for each in (self._keys, self._values))
        self.keys = [next(keys[one.heads, one.key]) for one in self._shapes]
        self.values = [next(values[one.heads, one.value]) for one in self._shapes]

    @property
    def _stacks(self) -> list[Tensor]:
        """All that is kept, [layers of one size, B, capacity, Hk, D] each."""
        return [*self._keys.values(), *self._values.values()]

    def row(self, index: int) -> "KVCache":
        """An empty one-row cache on the memory of row `index`: for filling that row alone."""
        view = object.__new__(type(self))
        view.batch, view.capacity = 1, self.capacity
        view._shapes = self._shapes
        view._keys, view._values = (
            {size: stack[:, index : index + 1] for size, stack in each.items()} for each in (self._keys, self._values)
        )
        view._spread()
        view.lengths, view.longest, view.kernel = torch.zeros_like(self.lengths[:1]), 0, self.kernel
        view._masks, view._places, view._branches = {}, {}, None
        view.seqlens, view.graphs, view.padded = torch.zeros_like(self.seqlens[:1]), None, False
        return view

    def copy_row(self, source: int, rows: list[int], length: int) -> None:
        """Give `rows` the first `length` slots of row `source`."""
        for stored in self._stacks:
            stored[:, rows, :length] = stored[:, source : source + 1, :length]

    def shrink(self, rows: list[int]) -> None:
        """Go on with `rows` alone, which ascend; passes are over so many from now on. Not for replayed passes."""
        for place, row in enumerate(rows):
            if place != row:
                for stored in self._stacks:
                    stored[:, place] = stored[:, row]
        self.batch = len(rows)
        self._keys, self._values = (
            {size: stack[:, : self.batch] for size, stack in each.items()} for each in (self._keys, self._values)
        )
        self._spread()
        self.lengths, self.seqlens = self.lengths[rows], self.seqlens[rows]
        self._forget()

    def set_lengths(self, lengths: list[int]) -> None:
        """Commit exactly `lengths` slots of each row."""
        self.longest = max(lengths)
        if self.longest > self.capacity:
            raise ValueError(f"cache capacity={self.capacity}: {self.longest} slots are needed; make it larger")
        self.lengths.copy_(torch.tensor(lengths))  # in place: graphs know the address
        self.seqlens.copy_(self.lengths)
        self._forget()

    def advance(self, count: int) -> None:
        """Commit `count` more slots of every row; a negative number takes them back."""
        self.longest += count
        if self.longest > self.capacity:
            raise ValueError(f"cache capacity={self.capacity}: {self.longest} slots are needed; make it larger")
        self.lengths.add_(count)  # in place: graphs know the address
        self.seqlens.add_(count)
        self._forget()

    def positions(self, count: int) -> Tensor:
        """Positions of `count` new tokens behind each row, [B, Q]."""
        if self._branches is not None:
            return self.lengths[:, None] + self._branches[0]
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    @contextmanager
    def branching(self, depths: Tensor, ancestors: Tensor) -> Iterator[None]:
        """The new tokens are a tree: each sees the row and the tokens that it follows, and stands at its depth.

        Args:
            depths: 0 for the first token behind the row, [B, Q].
            ancestors: which of the new tokens each one follows, itself included, bool [B, Q, Q].
        """
        if self.kernel == "flash_attn" and "tree" not in _logged:
            _logged.add("tree")
            log.info("attention kernel of trees: sdpa (flash_attn takes no mask)")
        self._branches = depths, ancestors
        self._forget()
        try:
            yield
        finally:
            self._branches = None
            self._forget()

    def keep(self, path: Tensor) -> None:
        """Move what was written in the slots `path` [B, P] behind each row's length to the P slots after the first.

        The first new token stays where it is; entries are at least 1, 2, ..., P; nothing is committed.
        """
        rows = torch.arange(len(path), device=path.device)[:, None]  # [B, 1]
        source = self.lengths[:, None] + path  # [B, P]
        target = self.lengths[:, None] + 1 + torch.arange(path.shape[1], device=path.device)
        for stored in self._stacks:
            stored[:, rows, target] = stored[:, rows, source]

    def replay(self, name: Hashable, run: Run, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        """`run(*inputs)`, a pass over this cache: from a graph if it keeps graphs, as it is otherwise.

        Args:
            name: of the pass; the same name means the same code, weights and other settings.
            inputs: all that changes from call to call, the cache aside; the first is [B, Q, ...].
        Returns:
            what `run` returns; from a graph, valid until the next call of the same pass.
        """
        if self.graphs is None or self._branches is not None:  # each tree is another
            return run(*inputs)

        def fresh(*inputs: Tensor) -> tuple[Tensor | None, ...]:
            self._forget()  # each recording makes its own
            return run(*inputs)

        self.padded = True
        try:
            return self.graphs((name, self._reach(inputs[0].shape[1])), fresh, inputs)
        finally:
            self.padded = False
            self._forget()

    def _forget(self) -> None:
        """What layers share in a pass is of its lengths alone."""
        self._masks.clear()
        self._places.clear()

    def _reach(self, count: int) -> int:
        """How many slots are looked at when `count` new tokens come."""
        if not self.padded:
            return self.longest + count
        if self.kernel == "flash_attn":  # reads the lengths itself
            return self.capacity
        return min(self.capacity, -(-(self.longest + count) // STEP) * STEP)

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store key [B, Q, Hk, D] and value [B, Q, Hk, D'] behind the committed slots, without committing them."""
        count = key.shape[1]
        if count not in self._places:
            start = self.longest if self.batch == 1 and not self.padded else None
            self._places[count] = sdpa.behind(self.lengths, count, start)
        self.keys[layer][self._places[count]] = key
        self.values[layer][self._places[count]] = value

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        causal: bool,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """Store key [B, Q, Hk, D], value [B, Q, Hk, D'] and attend from query [B, Q, H, D]; returns [B, Q, H, D'].

        Args:
            softcap, sinks: see `drafter.attention.plain`.
        """
        keys, values = self.keys[layer], self.values[layer]
        special = softcap is not None or sinks is not None
        fits = not special and keys.shape[-1] == values.shape[-1] <= flash.WIDEST
        if self.kernel == "flash_attn" and self._branches is None and fits:
            return flash.attend(query, key, value, keys, values, self.seqlens, causal, scale, window)
        if self.kernel == "flash_cpu" and not special and flash_cpu.fits(query, keys, values):
            rows = (keys, values, self.lengths, self.longest)
            return flash_cpu.attend(query, key, value, *rows, causal, scale, window, self._branches)
        self.write(layer, key, value)
        end = self._reach(query.shape[1])
        want = (query.shape[1], causal, window)
        if want not in self._masks:
            self._masks[want] = (
                sdpa.visible(self.lengths, query.shape[1], end, causal, window, self.padded)
                if self._branches is None
                else sdpa.visible_branches(self.lengths, end, *self._branches, window)
            )
        mask = self._masks[want]
        if special:
            return plain.attend(query, keys[:, :end], values[:, :end], mask, scale, softcap, sinks)
        return sdpa.attend(query, keys[:, :end], values[:, :end], mask, scale)
