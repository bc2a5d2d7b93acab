"""The adjusted laws, token by token."""

from itertools import product

import naive
import pytest
import torch

from drafter.decode.sampling import check_law, probabilities

ADJUSTMENTS = [(1.0, 1.0, 0), (0.6, 1.0, 0), (1.3, 0.7, 0), (1.0, 1.0, 3), (0.8, 0.6, 4), (2.0, 0.999, 1)]


@pytest.mark.parametrize(("temperature", "top_p", "top_k"), ADJUSTMENTS)
def test_laws_match_their_definition(temperature, top_p, top_k):
    logits = 2 * torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    got = probabilities(logits, temperature, top_p, top_k)
    for row, slot in product(range(3), range(5)):
        expected = torch.tensor(naive.law(logits[row, slot], temperature, top_p, top_k), dtype=torch.float64)
        torch.testing.assert_close(got[row, slot].double(), expected, rtol=1e-5, atol=1e-7)


def test_temperature_zero_is_the_argmax():
    logits = torch.tensor([[0.5, 2.0, 1.0], [3.0, -1.0, 2.9]])
    assert probabilities(logits, temperature=0).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_top_p_keeps_the_token_that_reaches_it():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    assert probabilities(logits, top_p=0.5).tolist() == [1, 0, 0]
    torch.testing.assert_close(probabilities(logits, top_p=0.51), torch.tensor([0.625, 0.375, 0]))
    torch.testing.assert_close(probabilities(logits, top_p=1e-9), torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((-0.1, 1.0, 0), r"temperature=-0\.1: must be 0, which is greedy, or finite and at least"),
        ((1.0, 0.0, 0), r"top_p=0\.0: must lie in \(0, 1\]"),
        ((1.0, 1.1, 0), r"top_p=1\.1"),
        ((1.0, 1.0, -1), r"top_k=-1: must be a whole number >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_law(*wrong)
