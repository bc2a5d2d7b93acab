"""Random numbers of a batch: a stream for each row, which no other row can shift."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
BITS = (1 << 64) - 1


class Streams:
    """A stream of uniform numbers per row, a function of the row's key alone, the same on every device.

    Number i of the stream with key k is splitmix64's output at the state k + i · GOLDEN. Rules take one in place of a
    `torch.Generator`.

    Args:
        keys: int64 [B], as `key` makes them.
    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """

    def __init__(self, keys: Tensor):
        self.keys, self.drawn = keys, 0

    def uniforms(self, shape: tuple[int, ...]) -> Tensor:
        """The next numbers of each row, float64 in [0, 1), [B, ...].

        Raises:
            ValueError: the shape has another number of rows.
        """
        if shape[:1] != self.keys.shape:
            raise ValueError(f"streams: numbers of shape {list(shape)} are asked for, there are {len(self.keys)} rows")
        count = math.prod(shape[1:])
        places = torch.arange(self.drawn + 1, self.drawn + count + 1, device=self.keys.device)
        self.drawn += count
        bits = _mixed(self.keys[:, None] + places * _signed(GOLDEN))  # [B, count]
        return (_shifted(bits, 11).double() * 2.0**-53).view(shape)


def key(*numbers: int) -> int:
    """The key of a stream, from numbers that tell it from all others: a seed, a prompt's index, a cycle, ..."""
    state = 0
    for number in numbers:
        state = _mix((state + GOLDEN + (number & BITS)) & BITS)
    return _signed(state)


def name_of(seed: int | Sequence[int], prompt: int) -> tuple[int, ...]:
    """What tells a prompt's numbers from those of all others: its own seed, or the one that all share and its index."""
    return (seed, prompt) if isinstance(seed, int) else (seed[prompt],)


def kept_noise(seed: int | Sequence[int], prompts: int, places: int, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of every place of each prompt's answer, [prompts, places]; fewer are the first of more."""
    keys = [key(*name_of(seed, prompt)) for prompt in range(prompts)]
    return Streams(torch.tensor(keys, dtype=torch.long, device=device)).uniforms((prompts, places))


def _mix(state: int) -> int:
    """splitmix64's output function, in whole numbers."""
    state = ((state ^ (state >> 30)) * FIRST) & BITS
    state = ((state ^ (state >> 27)) * SECOND) & BITS
    return state ^ (state >> 31)


def _mixed(states: Tensor) -> Tensor:
    """The same, of int64 tensors, whose products wrap."""
    states = (states ^ _shifted(states, 30)) * _signed(FIRST)
    states = (states ^ _shifted(states, 27)) * _signed(SECOND)
    return states ^ _shifted(states, 31)


def _shifted(states: Tensor, count: int) -> Tensor:
    """Shifted right as if unsigned."""
    return (states >> count) + (states < 0) * (1 << (64 - count))


def _signed(bits: int) -> int:
    """The int64 of the same 64 bits."""
    return bits - (1 << 64) if bits >> 63 else bits
