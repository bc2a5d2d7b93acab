"""Random numbers of a row: splitmix64 in whole numbers, uniform, and nobody else's."""

import pytest
import torch
from scipy.stats import kstest

from drafter.verification import block_verification, sample, speculative_sampling
from drafter.verification.base import uniforms
from drafter.verification.streams import Streams, key

BITS = (1 << 64) - 1


def splitmix64(state, count):
    """The published generator: 64-bit words of a state."""
    words = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & BITS
        word = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & BITS
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & BITS
        words.append(word ^ (word >> 31))
    return words


def test_numbers_are_splitmix64s():
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]  # as published
    keys = [1234567, 0, -1, -(1 << 63), (1 << 63) - 1, key(3, 4)]
    streams = Streams(torch.tensor(keys))
    drawn = torch.cat([streams.uniforms((6, 2)), streams.uniforms((6, 3, 1)).flatten(1)], dim=1)
    expected = [[(word >> 11) / 2**53 for word in splitmix64(one & BITS, 5)] for one in keys]
    assert drawn.tolist() == expected


def test_numbers_are_uniform_within_and_across_rows():
    keys = [key(7, prompt, cycle) for prompt in range(200) for cycle in range(10)]
    assert len(set(keys)) == 2000
    drawn = Streams(torch.tensor(keys)).uniforms((2000, 30))
    assert drawn.dtype == torch.float64
    assert drawn.min() >= 0
    assert drawn.max() < 1
    for numbers in (drawn.flatten(), drawn[:, 0], drawn[0]):
        assert kstest(numbers.numpy(), "uniform").pvalue > 1e-4
    centred = drawn - 0.5
    rows = torch.corrcoef(centred[:40])
    assert rows.fill_diagonal_(0).abs().max() < 0.85  # 30 numbers each, 780 pairs
    assert abs(float((centred[:, 1:] * centred[:, :-1]).mean())) < 0.002  # neighbours
    assert abs(float((centred[1:] * centred[:-1]).mean())) < 0.002  # neighbouring cycles


def test_keys_tell_their_numbers_apart():
    assert len({key(*numbers) for numbers in [(1, 2), (2, 1), (3,), (1, 2, 0), (0, 1, 2), (-1,), (BITS - 1,)]}) == 7
    assert key(5) == key(5 + (1 << 64))


@pytest.mark.parametrize("rule", [speculative_sampling, block_verification])
def test_a_row_of_a_batch_is_the_row_alone(rule):
    generator = torch.Generator().manual_seed(0)
    laws = [torch.rand(4, slots, 5, generator=generator).softmax(-1) for slots in (3, 4)]
    keys = torch.tensor([key(1, row) for row in range(4)])
    streams = Streams(keys)
    drafts = sample(laws[0], streams)
    together = rule(drafts, *laws, streams)
    for row in range(4):
        alone = Streams(keys[row : row + 1])
        mine = sample(laws[0][row : row + 1], alone)
        assert torch.equal(mine[0], drafts[row])
        found = rule(mine, *(law[row : row + 1] for law in laws), alone)
        assert (found.accepted[0], found.next_token[0]) == (together.accepted[row], together.next_token[row])


def test_another_number_of_rows_is_refused():
    with pytest.raises(ValueError, match=r"streams: numbers of shape \[3, 2\] are asked for, there are 2 rows"):
        uniforms((3, 2), Streams(torch.tensor([1, 2])), torch.device("cpu"))
