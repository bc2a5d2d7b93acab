"""Scoring slots: values and gradients against a plain float64 softmax, and what is held in memory on the way."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from losses import score, score_blocks, score_slots, verifier_labels

torch.set_num_threads(1)

SHAPES = [(1, 1, 2), (7, 5, 11), (63, 8, 101), (64, 16, 33)]  # N, D, V


def problem(slots, width, vocabulary, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(slots, width, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(vocabulary, (slots,), generator=generator)
    labels[::2] = (hidden.detach() @ head.T).argmax(-1)[::2]  # half of them hits
    return hidden, head, labels


def plain(hidden, head, labels, log_correction=0.0):
    logits = hidden.double() @ head.double().T
    nll = -(logits + log_correction).log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    return nll, logits.argmax(-1) == labels


class Watch(TorchDispatchMode):
    """Sees every operation, below autograd: the largest tensor made, and how many matrix products."""

    def __init__(self):
        super().__init__()
        self.largest, self.products = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.products += "mm" in str(function)
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["f64", "f32"])
@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradient_match_the_plain_softmax(shape, chunk_size, dtype, tolerance):
    hidden, head, labels = problem(*shape, dtype)
    slope = torch.linspace(-2, 3, shape[0], dtype=torch.float64)
    nll, hit = score_slots(hidden, head, labels, chunk_size)
    (gradient,) = torch.autograd.grad((nll * slope).sum(), hidden)
    expected, expected_hit = plain(hidden, head, labels)
    (expected_gradient,) = torch.autograd.grad((expected * slope).sum(), hidden)
    assert nll.dtype == gradient.dtype == dtype
    torch.testing.assert_close(nll.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient, expected_gradient, rtol=tolerance, atol=tolerance)
    assert torch.equal(hit, expected_hit)
    assert hit[::2].all()


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0], ids=["p_near_1/V", "mixed", "p_near_0_or_1"])
def test_bfloat16_is_exact_given_its_logits(scale):
    hidden, head, labels = problem(63, 32, 501, torch.bfloat16)
    hidden = (hidden.detach() * scale).requires_grad_()
    nll, _ = score_slots(hidden, head, labels, 63)
    nll.sum().backward()
    logits = (hidden.detach() @ head.T).double()
    slope = logits.softmax(-1).scatter_add(1, labels[:, None], -torch.ones(63, 1, dtype=torch.float64))
    expected = slope @ head.double()
    assert nll.dtype == torch.float32
    expected_nll = -logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    torch.testing.assert_close(nll.double(), expected_nll, rtol=1e-5, atol=1e-6)
    errors = (hidden.grad.double() - expected).norm(dim=1)
    assert (errors <= 0.01 * expected.norm(dim=1) + 1e-6).all()  # at each slot: also where the gradient vanishes


@pytest.mark.parametrize("softcap", [None, 0.5], ids=["plain", "capped"])
def test_a_hit_is_one_before_its_logit_is_rounded(softcap):
    """In bfloat16 the highest logit is often that of several tokens: the first of them is not the one."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(256, 32, generator=generator).bfloat16()
    head = (0.3 * torch.randn(9001, 32, generator=generator)).bfloat16()
    exact, rounded = (hidden.double() @ head.double().T).argmax(-1), (hidden @ head.T).argmax(-1)
    other = exact != rounded
    assert 3 < other.sum() < 30
    assert score(hidden, head, exact, 100, softcap=softcap).hit.all()
    assert torch.equal(score(hidden, head, rounded, 100, softcap=softcap).hit, ~other)


def test_of_logits_that_are_equal_unrounded_the_first_is_hit():
    head = torch.tensor([[0.5, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.001]]).bfloat16()  # 1.001 is rounded to 1
    assert score(torch.ones(3, 2).bfloat16(), head, torch.tensor([1, 2, 3])).hit.tolist() == [True, False, False]


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_extreme_probabilities_stay_finite(scale):
    hidden, head, labels = problem(40, 8, 30, torch.float32)
    hidden = (hidden.detach() * scale).requires_grad_()
    nll, _ = score_slots(hidden, head, labels, 16)
    nll.sum().backward()
    assert nll.isfinite().all()
    assert (nll >= 0).all()
    assert hidden.grad.isfinite().all()
    if scale > 1:
        assert nll.min() == 0
        assert nll.max() > 1000


def test_a_tie_goes_to_the_first_token_as_argmax_does():
    head = torch.ones(9, 4)
    nll, hit = score_slots(torch.ones(3, 4), head, torch.tensor([0, 1, 8]), 2)
    assert hit.tolist() == [True, False, False]
    torch.testing.assert_close(nll.exp(), torch.full((3,), 9.0))


def test_nothing_larger_than_a_chunk_of_logits_is_made():
    hidden, head, labels = problem(64, 4, 301, torch.bfloat16)
    with Watch() as watch:
        nll, _ = score_slots(hidden, head, labels, 8)
        nll.sum().backward()
    assert watch.largest == 8 * 301
    assert watch.products == 2 * 8


@pytest.mark.parametrize("case", ["no_grad", "leaf_without_grad"])
def test_without_a_gradient_the_second_product_is_left_out(case):
    hidden, head, labels = problem(64, 4, 301)
    with Watch() as watch, torch.set_grad_enabled(case != "no_grad"):
        nll, _ = score_slots(hidden if case == "no_grad" else hidden.detach(), head, labels, 8)
    assert watch.products == 8
    assert not nll.requires_grad


def test_log_correction_moves_nll_and_its_gradient_but_not_hit():
    hidden, head, labels = problem(40, 8, 30)
    correction = torch.linspace(-3, 3, 30, dtype=torch.float64)
    scores = score(hidden, head, labels, 7, log_correction=correction)
    (gradient,) = torch.autograd.grad(scores.nll.sum(), hidden)
    expected, expected_hit = plain(hidden, head, labels, correction)
    torch.testing.assert_close(scores.nll, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), hidden)[0], rtol=1e-9, atol=1e-9)
    assert torch.equal(scores.hit, expected_hit)
    assert not torch.equal(scores.hit, (hidden @ head.T + correction).argmax(-1) == labels)


NEEDS = ["nll", "forward_kl", "reverse_kl", "jsd", "log_acceptance"]


@pytest.mark.parametrize("correction", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_a_soft_cap_is_the_capped_logits_under_a_head_that_is_none(dtype, tolerance, correction):
    hidden, head, labels = problem(40, 8, 30, dtype)
    states, cap, needs = problem(40, 8, 30, dtype, seed=1)[0].detach(), 3.0, ["nll"] if correction else NEEDS
    options = {"needs": needs, "temperature": 1.5}
    options |= {"log_correction": torch.linspace(-3, 3, 30, dtype=dtype)} if correction else {}
    found = score(hidden, head, labels, 7, softcap=cap, verifier_hidden=states, **options)
    logits, verifiers = (cap * torch.tanh(one @ head.T / cap) for one in (hidden, states))
    expected = score(logits, torch.eye(30, dtype=dtype), labels, 7, verifier_hidden=verifiers, **options)
    assert torch.equal(found.hit, expected.hit)
    for name in needs:
        values = [getattr(one, name) for one in (found, expected)]
        torch.testing.assert_close(*values, rtol=tolerance, atol=tolerance)
        slopes = [torch.autograd.grad(value.sum(), hidden, retain_graph=True)[0] for value in values]
        torch.testing.assert_close(*slopes, rtol=tolerance, atol=tolerance)
        assert slopes[0].any()
    assert not torch.allclose(found.nll, plain(hidden, head, labels)[0].to(dtype), rtol=1e-2)


@pytest.mark.parametrize("top_k", [1, 3, 30])
def test_in_top_k(top_k):
    hidden, head, labels = problem(40, 8, 30)
    scores = score(hidden, head, labels, 7, top_k=top_k)
    best = (hidden @ head.T).topk(top_k).indices
    assert torch.equal(scores.in_top_k, (best == labels[:, None]).any(-1))
    assert score(hidden, head, labels, 7).in_top_k is None


def test_autocast_does_not_change_the_dtype_of_the_products():
    hidden, head, labels = problem(20, 8, 30, torch.float32)
    plainly = score_slots(hidden, head, labels, 7)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(score_slots(hidden, head, labels, 7)[0], plainly)


def test_a_wide_hidden_state_before_a_narrow_head_gets_a_wide_gradient():
    hidden, head, labels = problem(20, 8, 30, torch.float32)
    nll, _ = score_slots(hidden, head.bfloat16(), labels, 7)
    nll.sum().backward()
    assert hidden.grad.dtype == nll.dtype == torch.float32


@pytest.mark.parametrize(
    ("needs", "products"),
    [(("nll",), 2), (("jsd",), 3), (("nll", "jsd", "log_acceptance"), 5), ((), 1)],
    ids=["nll", "jsd", "all", "none"],
)
def test_a_gradient_is_stored_for_what_is_needed_only(needs, products):
    hidden, head, labels = problem(16, 4, 301, torch.bfloat16)
    with Watch() as watch:
        scores = score(hidden, head, labels, 8, needs=set(needs), verifier_hidden=hidden.detach() + 1)
    assert watch.products == 2 * products
    assert watch.largest == 8 * 301
    assert scores.nll.requires_grad == ("nll" in needs)
    assert (scores.jsd is not None) == ("jsd" in needs)
    assert scores.forward_kl is None


def test_the_verifier_gives_labels():
    states, head, _ = problem(30, 8, 30, torch.float32)
    states = states.detach().view(2, 3, 5, 8)
    assert torch.equal(verifier_labels(states, head, 4), (states @ head.T).argmax(-1))


def test_no_slots_at_all():
    hidden, head, labels = problem(1, 8, 30)
    nll, hit = score_slots(hidden[:0], head, labels[:0], 7)
    nll.sum().backward()
    assert nll.shape == hit.shape == (0,)
    assert hidden.grad.abs().sum() == 0


def test_blocks_are_scored_at_valid_slots_only():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    head = torch.randn(30, 8, dtype=torch.float64, generator=generator)
    valid = torch.rand(2, 3, 5, generator=generator) < 0.6
    labels = torch.where(valid, torch.randint(30, (2, 3, 5), generator=generator), -100)
    with Watch() as watch:
        scores = score_blocks(hidden, head, labels, valid, 1, top_k=2)
    assert watch.products == 2 * valid.sum()
    expected, expected_hit = plain(hidden.flatten(0, 2), head, labels.flatten().clamp_min(0))
    torch.testing.assert_close(scores.nll, expected.view_as(valid) * valid, rtol=1e-9, atol=1e-9)
    assert torch.equal(scores.hit, expected_hit.view_as(valid) & valid)
    assert not scores.in_top_k[~valid].any()
    assert torch.equal(scores.hidden, hidden[valid])
    (gradient,) = torch.autograd.grad(scores.nll.sum(), hidden)
    expected_gradient = torch.autograd.grad((expected.view_as(valid) * valid).sum(), hidden)[0]
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": torch.zeros(30, 7)}, r"\[N, D\], \[V, D\] and \[N\]"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, r"labels \[3\]"),
        ({"chunk_size": 0}, "chunk_size=0: must be >= 1"),
        ({"top_k": 0}, "top_k=0: must be >= 1"),
        ({"softcap": 0.0}, r"softcap=0.0: must be > 0"),
        ({"log_correction": torch.zeros(29)}, r"log_correction \[29\]: must be \[V\], here \[30\]"),
        ({"needs": {"kl"}}, r"needs kl: must be of nll, log_acceptance, forward_kl, reverse_kl, jsd"),
        ({"needs": {"jsd"}}, r"needs jsd: give verifier_hidden"),
        (
            {"needs": {"jsd"}, "verifier_hidden": torch.zeros(4, 7)},
            r"verifier_hidden \[4, 7\], verifier_head \[30, 8\]",
        ),
        ({"needs": {"jsd"}, "verifier_hidden": torch.zeros(4, 8), "temperature": 0.0}, r"temperature=0.0: must be > 0"),
        (
            {"needs": {"jsd"}, "verifier_hidden": torch.zeros(4, 8), "log_correction": torch.zeros(30)},
            r"needs jsd: compares whole laws, so not with log_correction",
        ),
    ],
)
def test_misuse_is_named(change, message):
    inputs = {"hidden": torch.zeros(4, 8), "head": torch.zeros(30, 8), "labels": torch.zeros(4, dtype=torch.long)}
    with pytest.raises(ValueError, match=message):
        score(**{**inputs, **change})


def test_blocks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be \[B, A, G, D\], \[B, A, G\] and \[B, A, G\]"):
        score_blocks(torch.zeros(2, 3, 5, 8), torch.zeros(30, 8), torch.zeros(2, 3, 4), torch.ones(2, 3, 5).bool())
