"""The head of a dynamic ensemble: what it computes, where it begins, how it is kept."""

import json

import pytest
import torch
from safetensors.torch import save_file

from drafter.models.ensemble_head import CONFIG, WEIGHTS, EnsembleHead, HeadConfig
from drafter.verification import dynamic_ensemble, static_ensemble

torch.set_num_threads(1)


def random_head(seed=0):
    head = EnsembleHead(HeadConfig(3, 4, "small", "large", "sums", {"steps": 7}))
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)))
    return head


def states(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, generator=generator), torch.randn(*shape, 4, generator=generator)


def test_it_is_the_sigmoid_of_one_layer_over_both_states():
    head, (drafter, verifier) = random_head(), states(2, 5)
    slopes, (offset,) = head.linear.weight[0].tolist(), head.linear.bias.tolist()
    got = head(drafter, verifier)
    for row in range(2):
        for slot in range(5):
            both = drafter[row, slot].tolist() + verifier[row, slot].tolist()
            score = sum(a * b for a, b in zip(slopes, both, strict=True)) + offset
            assert got[row, slot].item() == pytest.approx(1 / (1 + 2.718281828459045**-score), rel=1e-5)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_a_new_head_is_the_static_ensemble(weight):
    head, (drafter, verifier) = EnsembleHead(HeadConfig(3, 4), weight), states(50, 4)
    generator = torch.Generator().manual_seed(0)
    draft, own = ((2 * torch.randn(50, slots, 6, generator=generator)).softmax(-1).double() for slots in (4, 5))
    ids = torch.multinomial(draft.flatten(0, 1), 1, generator=generator).view(50, 4)
    given = head(drafter, verifier)
    assert (given == given[0, 0]).all()
    assert given[0, 0].item() == pytest.approx(weight, rel=1e-6)
    one = dynamic_ensemble(ids, draft, own, torch.Generator().manual_seed(5), verifier_weight=given)
    two = static_ensemble(given[0, 0].item())(ids, draft, own, torch.Generator().manual_seed(5))
    assert torch.equal(one.accepted, two.accepted)
    assert torch.equal(one.next_token, two.next_token)


def test_states_of_half_precision_give_a_whole_weight():
    head, (drafter, verifier) = random_head(), states(3, 4)
    got = head(drafter.bfloat16(), verifier.bfloat16())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, head(drafter, verifier), rtol=0, atol=0.05)


def test_what_is_saved_comes_back(tmp_path):
    head = random_head()
    head.save(tmp_path / "head")
    found = EnsembleHead.load(tmp_path / "head")
    assert found.config == head.config
    assert torch.equal(found(*states(2, 3)), head(*states(2, 3)))
    assert not any(weight.requires_grad for weight in found.parameters())
    found.check_widths(3, 4)


@pytest.mark.parametrize(("weight", "name"), [(0.0, "weight=0"), (1.0, "weight=1"), (float("nan"), "weight=nan")])
def test_a_weight_at_the_ends_is_refused(weight, name):
    with pytest.raises(ValueError, match=rf"{name}.*must lie in \(0, 1\)"):
        EnsembleHead(HeadConfig(3, 4), weight)


def test_another_pair_is_refused():
    with pytest.raises(ValueError, match="verifier_width=4, here it is 5; name the head"):
        random_head().check_widths(3, 5)
    with pytest.raises(ValueError, match="drafter_width=0: must be >= 1"):
        HeadConfig(0, 4)


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"head='.*nowhere': holds no {CONFIG}"):
        EnsembleHead.load(tmp_path / "nowhere")
    random_head().save(tmp_path)
    save_file({"linear.weight": torch.zeros(1, 9), "linear.bias": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="holds other tensors than"):
        EnsembleHead.load(tmp_path)
    random = random_head()
    random.linear.bias.data.fill_(float("nan"))
    random.save(tmp_path)
    with pytest.raises(ValueError, match="holds NaN or infinity; train it again"):
        EnsembleHead.load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-3])
    with pytest.raises(ValueError, match=rf"{WEIGHTS}: can't be read .*; train or copy it again"):
        EnsembleHead.load(tmp_path)
    for content in (json.dumps({"drafter_width": 3}), "{"):
        (tmp_path / CONFIG).write_text(content)
        with pytest.raises(ValueError, match="describes no head"):
            EnsembleHead.load(tmp_path)
