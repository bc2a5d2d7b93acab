"""Passes of fixed shapes over a cache as CUDA graphs: captured once, then one launch by the host instead of hundreds.

A graph bakes in addresses and every number that the host knew. So inputs are copied into tensors of its own, rows'
lengths are read on the device, and whatever else may change is part of the key under which a graph is kept.
"""

import logging
from collections.abc import Callable, Hashable
from enum import IntEnum

import torch
from torch import Tensor

log = logging.getLogger(__name__)
_logged: set[str] = set()

Run = Callable[..., tuple[Tensor | None, ...]]
WARM_UPS = 2


class Replay(IntEnum):
    """Whether passes are replayed from graphs: not at all, where they can be captured, or else not at all."""

    OFF, WANTED, REQUIRED = range(3)


def choose_replay(requested: str, device: torch.device, reason: str | None = None) -> Replay:
    """Turn `auto | on | off` into whether passes are replayed from graphs: `auto` where there is a CUDA device.

    Args:
        reason: why this model's passes can't be captured, if so.
    Raises:
        ValueError: `on` where it can't be.
    """
    if requested not in ("auto", "on", "off"):
        raise ValueError(f"compile={requested!r}: choose auto, on or off")
    reason = "CUDA graphs need a CUDA device" if device.type != "cuda" else reason
    if requested == "on" and reason:
        raise ValueError(f"compile='on': {reason}; use compile=auto")
    if requested == "on":
        return Replay.REQUIRED
    return Replay.OFF if requested == "off" or reason else Replay.WANTED


def capture(run: Run, inputs: tuple[Tensor, ...]) -> tuple[Callable[[], None], tuple[Tensor | None, ...]]:
    """Record `run(*inputs)`; returns what does it again, reading and writing the same memory, and its outputs."""
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):  # lazy initialisation must not be captured
        for _ in range(WARM_UPS):
            run(*inputs)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run(*inputs)
    return graph.replay, outputs


class Graphs:
    """The graphs of one cache. What can't be captured runs as it is, which is logged once.

    Args:
        required: what can't be captured is an error instead.
    """

    def __init__(self, required: bool = False) -> None:
        self.passes: dict[Hashable, tuple] = {}
        self.required, self.broken = required, False

    def __call__(self, key: Hashable, run: Run, inputs: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
        """`run(*inputs)` by a graph; the outputs are overwritten by the next call with the same key and shapes.

        Raises:
            ValueError: graphs are required, and this pass can't be captured.
        """
        if self.broken:
            return run(*inputs)
        key = (key, *((one.shape, one.dtype) for one in inputs))
        if key not in self.passes:
            own = tuple(one.clone() for one in inputs)
            try:
                self.passes[key] = own, *capture(run, own)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                if self.required:
                    raise ValueError(
                        f"compile='on': a pass can't be captured as a CUDA graph ({reason}); use compile=auto"
                    ) from error
                self.broken = True
                if reason not in _logged:
                    _logged.add(reason)
                    log.warning("CUDA graphs: off, a pass can't be captured (%s)", reason)
                return run(*inputs)
        own, again, outputs = self.passes[key]
        for mine, new in zip(own, inputs, strict=True):
            mine.copy_(new)
        again()
        return outputs
