"""What a push-forward model is taught, against the definition at one position of one row at a time."""

import pytest
import torch
from conftest import make_verifier

from drafter.models.push_forward import PushForwardModel
from drafter.training.distillation.scoring import score_tokens
from drafter.training.distillation.targets import independent, inverted, sampled, self_forced
from drafter.verification.base import inverse_cdf

HALF, ONE = torch.tensor([0.5, 1.0]), torch.ones(2)


def rows(length, slots):
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 250, (2, length), generator=generator)
    return ids, torch.rand(2, length, slots, generator=generator, dtype=torch.float64)


def law(verifier, ids, temperature):
    """The verifier's law behind ids [S], float64."""
    logits = verifier.model(input_ids=ids[None]).logits[0, -1]
    return (logits.double() / float(temperature)).softmax(-1)


def naive_token(law, z):
    total = 0.0
    for token, mass in enumerate(law.tolist()):
        total += mass
        if total > z:
            return token
    return int(law.nonzero()[-1])


def test_the_unit_square_of_the_source():
    """A B C with p(A) = 1/3, p(B) = 2/3, p(B|A) = 1, p(A|B) = p(C|B) = 1/2: AB, BA and BC, a third each."""
    first = torch.tensor([1 / 3, 2 / 3, 0.0], dtype=torch.float64)
    second = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    count = 60
    edges = torch.arange(count, dtype=torch.float64) / count
    seen = {"AB": 0, "BA": 0, "BC": 0}
    for z1 in edges:
        for z2 in edges:
            one = inverse_cdf(first, z1)
            block = "ABC"[one] + "ABC"[inverse_cdf(second[one], z2)]
            assert block == ("AB" if z1 < 1 / 3 else "BA" if z2 < 1 / 2 else "BC")
            seen[block] += 1
    assert set(seen.values()) == {count * count // 3}


@torch.no_grad()
def test_the_first_stage_samples_from_the_verifier_by_inverse_cdf():
    verifier = make_verifier("llama")
    ids, noise = rows(9, 1)
    found = sampled(verifier, ids, noise, HALF)
    for row in range(2):
        for position in range(9):
            wanted = naive_token(law(verifier, ids[row, : position + 1], HALF[row]), float(noise[row, position]))
            assert found[row, position, 0] == wanted


@pytest.mark.parametrize("count", [3, 4])
@torch.no_grad()
def test_later_stages_take_the_teachers_tokens_behind_its_own(count):
    torch.manual_seed(1)
    teacher = PushForwardModel.from_verifier(make_verifier("qwen3"), 2).eval()
    ids, noise = rows(5, count)
    found = self_forced(teacher, ids, noise, ONE)
    for row in range(2):
        for position in range(5):
            known = ids[row, : position + 1]
            for own in noise[row, position].split(2):
                cache = teacher.new_cache(1, 32)
                hidden = teacher.push(known[None], own[None], ONE[:1], cache)
                known = torch.cat([known, teacher.logits(hidden)[0].argmax(-1)])
            assert found[row, position].tolist() == known[position + 1 :].tolist()


@torch.no_grad()
def test_inverted_noise_becomes_the_rows_own_tokens():
    verifier = make_verifier("llama")
    ids, uniforms = rows(11, 1)
    uniforms[:, :2] = 0.0  # the lower edge of a token's interval is the token's
    lesson = inverted(verifier, ids, 3, uniforms[:, 1:, 0], HALF)
    assert lesson.ids.equal(ids[:, :8])
    assert lesson.noise.shape == lesson.targets.shape == (2, 8, 3)
    for row in range(2):
        for position in range(8):
            for j in range(3):
                at = position + 1 + j
                assert lesson.targets[row, position, j] == ids[row, at]
                own = law(verifier, ids[row, :at], HALF[row])
                below, mass = float(own[: ids[row, at]].sum()), float(own[ids[row, at]])
                assert float(lesson.noise[row, position, j]) == pytest.approx(
                    below + float(uniforms[row, at, 0]) * mass, abs=1e-5
                )


def test_independent_slots_see_no_noise():
    ids, _ = rows(7, 1)
    lesson = independent(ids, 2, ONE)
    assert lesson.noise.count_nonzero() == 0
    assert lesson.targets[1, 4].tolist() == ids[1, 5:7].tolist()
    assert lesson.ids.equal(ids[:, :5])


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_scores_and_gradients_are_those_of_whole_logits(chunk_size):
    torch.manual_seed(0)
    head = torch.nn.Linear(8, 11, bias=False)
    hidden = torch.randn(2, 3, 4, 8, requires_grad=True)
    targets = torch.randint(11, (2, 3, 4))
    scores = score_tokens(head, hidden, targets, chunk_size)
    scores.loss.backward()
    grads = hidden.grad.clone(), head.weight.grad.clone()
    hidden.grad = head.weight.grad = None
    log_law = (hidden.double() @ head.weight.double().T).log_softmax(-1)
    nll = -log_law.gather(-1, targets[..., None])[..., 0]
    nll.mean().backward()
    nll, mean = nll.detach(), scores.nll.detach()
    for j in range(4):
        assert float(mean[j]) == pytest.approx(float(nll[:, :, j].mean()), rel=1e-6)
        assert float(scores.match[j]) == pytest.approx(float((log_law.argmax(-1) == targets)[..., j].double().mean()))
    assert float(scores.whole) == pytest.approx(float((log_law.argmax(-1) == targets).all(-1).double().mean()))
    torch.testing.assert_close(grads[0], hidden.grad, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(grads[1], head.weight.grad, rtol=1e-5, atol=1e-7)
