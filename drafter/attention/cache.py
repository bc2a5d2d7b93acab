"""Keys and values of a batch, preallocated, with a length per row."""

import logging
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from drafter.attention import flash, sdpa
from drafter.attention.replay import Graphs, Run

log = logging.getLogger(__name__)
_logged: set[str] = set()

STEP = 256  # replayed passes look at a multiple of as many slots, so that a few graphs serve all lengths


def choose_kernel(requested: str, device: torch.device, dtype: torch.dtype) -> str:
    """Turn `auto | sdpa | flash_attn` into the kernel that will run.

    Raises:
        ValueError: flash_attn is asked for where it can't run.
    """
    if requested not in ("auto", "sdpa", "flash_attn"):
        raise ValueError(f"attention={requested!r}: choose auto, sdpa or flash_attn")
    half = dtype in (torch.float16, torch.bfloat16)
    reason = "needs a CUDA device" if device.type != "cuda" else None if half else f"needs half precision, not {dtype}"
    reason = reason or flash.missing()
    if requested == "flash_attn" and reason:
        raise ValueError(f"attention='flash_attn': {reason}; use attention=sdpa")
    kernel = "sdpa" if requested == "sdpa" or reason else "flash_attn"
    if requested == "auto" and kernel not in _logged:
        _logged.add(kernel)
        log.info("attention kernel: %s%s", kernel, f" (flash_attn {reason})" if reason else "")
    return kernel


class KVCache:
    """Keys and values of all layers, [layers, B, capacity, Hk, D] each, and how many slots of each row are committed.

    Rejecting a token is not advancing the row's length: the slot behind it is overwritten by the next write.

    Args:
        layers, batch, capacity, heads, width: sizes; heads are the key/value heads, width that of one head.
        kernel: `sdpa` or `flash_attn`, as `choose_kernel` returns it.
        replayed: passes over this cache become CUDA graphs.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        capacity: int,
        heads: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
        kernel: str = "sdpa",
        replayed: bool = False,
    ):
        capacity = -(-capacity // STEP) * STEP if replayed else capacity
        shape = (layers, batch, capacity, heads, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.seqlens = torch.zeros(batch, dtype=torch.int32, device=device)  # the same, for flash-attn
        self.longest = 0  # known to the host, so that slicing needs no synchronisation
        self.kernel = kernel
        self.graphs = Graphs() if replayed else None
        self.padded = False  # inside a pass that is replayed: nothing may depend on what the host knows of lengths
        self._masks: dict[tuple[int, bool, int | None], Tensor | None] = {}
        self._branches: tuple[Tensor, Tensor] | None = None

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def batch(self) -> int:
        return self.keys.shape[1]

    def row(self, index: int) -> "KVCache":
        """An empty one-row cache on the memory of row `index`: for filling that row alone."""
        view = object.__new__(KVCache)
        view.keys, view.values = self.keys[:, index : index + 1], self.values[:, index : index + 1]
        view.lengths, view.longest, view.kernel, view._masks = torch.zeros_like(self.lengths[:1]), 0, self.kernel, {}
        view._branches = None
        view.seqlens, view.graphs, view.padded = torch.zeros_like(self.seqlens[:1]), None, False
        return view

    def copy_row(self, source: int, rows: list[int], length: int) -> None:
        """Give `rows` the first `length` slots of row `source`."""
        for stored in (self.keys, self.values):
            stored[:, rows, :length] = stored[:, source : source + 1, :length]

    def set_lengths(self, lengths: list[int]) -> None:
        """Commit exactly `lengths` slots of each row."""
        self.longest = max(lengths)
        if self.longest > self.capacity:
            raise ValueError(f"cache capacity={self.capacity}: {self.longest} slots are needed; make it larger")
        self.lengths.copy_(torch.tensor(lengths))  # in place: graphs know the address
        self.seqlens.copy_(self.lengths)
        self._masks.clear()

    def advance(self, count: int) -> None:
        """Commit `count` more slots of every row; a negative number takes them back."""
        self.longest += count
        if self.longest > self.capacity:
            raise ValueError(f"cache capacity={self.capacity}: {self.longest} slots are needed; make it larger")
        self.lengths.add_(count)  # in place: graphs know the address
        self.seqlens.add_(count)
        self._masks.clear()

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
        self._masks.clear()
        try:
            yield
        finally:
            self._branches = None
            self._masks.clear()

    def keep(self, path: Tensor) -> None:
        """Move what was written in the slots `path` [B, P] behind each row's length to the P slots after the first.

        The first new token stays where it is; entries are at least 1, 2, ..., P; nothing is committed.
        """
        rows = torch.arange(len(path), device=path.device)[:, None]  # [B, 1]
        source = self.lengths[:, None] + path  # [B, P]
        target = self.lengths[:, None] + 1 + torch.arange(path.shape[1], device=path.device)
        for stored in (self.keys, self.values):
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
            self._masks.clear()  # each recording makes its own
            return run(*inputs)

        self.padded = True
        try:
            return self.graphs((name, self._reach(inputs[0].shape[1])), fresh, inputs)
        finally:
            self.padded = False
            self._masks.clear()

    def _reach(self, count: int) -> int:
        """How many slots are looked at when `count` new tokens come."""
        if not self.padded:
            return self.longest + count
        if self.kernel == "flash_attn":  # reads the lengths itself
            return self.capacity
        return min(self.capacity, -(-(self.longest + count) // STEP) * STEP)

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Store key and value [B, Q, Hk, D] behind the committed slots, without committing them."""
        start = self.longest if self.batch == 1 and not self.padded else None
        sdpa.write(self.keys[layer], key, self.lengths, start)
        sdpa.write(self.values[layer], value, self.lengths, start)

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
    ) -> Tensor:
        """Store key, value [B, Q, Hk, D] and attend from query [B, Q, H, D]; returns [B, Q, H, D]."""
        keys, values = self.keys[layer], self.values[layer]
        if self.kernel == "flash_attn" and self._branches is None:
            return flash.attend(query, key, value, keys, values, self.seqlens, causal, scale, window)
        self.write(layer, key, value)
        end = self._reach(query.shape[1])
        want = (query.shape[1], causal, window)
        if want not in self._masks:
            self._masks[want] = (
                sdpa.visible(self.lengths, query.shape[1], end, causal, window, self.padded)
                if self._branches is None
                else sdpa.visible_branches(self.lengths, end, *self._branches, window)
            )
        return sdpa.attend(query, keys[:, :end], values[:, :end], self._masks[want], scale)
