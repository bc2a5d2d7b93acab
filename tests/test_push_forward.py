"""The push-forward model: packed passes, caches and files against one plain pass over one row and its noise."""

import pytest
import torch
from conftest import make_verifier

from drafter.models.push_forward import NoiseEncoder, PushForwardModel, check_noise
from drafter.models.push_forward.packed import group_mask, group_positions

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
ONE = torch.ones(2)


def model_of(family):
    torch.manual_seed(3)
    return PushForwardModel.from_verifier(make_verifier(family), 2).eval()


def plain(model, ids, slots):
    """Normed states of slots [K, D] behind ids [S]: one causal pass, without cache, packing or batch."""
    inputs = torch.cat([model.embed(ids), slots])[None]
    positions = torch.arange(inputs.shape[1])[None]
    out = model.body(inputs_embeds=inputs, position_ids=positions, use_cache=False)
    return out.last_hidden_state[0, len(ids) :]


def rows(length, slots, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 250, (2, length), generator=generator)
    return ids, torch.rand(2, length, slots, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_single_pass_is_every_position_and_group_alone(family):
    model = model_of(family)
    ids, noise = rows(37, 3)  # longer than gemma3's window
    hidden = model(ids, noise, ONE)
    for row, position in ((0, 0), (0, 36), (1, 5), (1, 33)):
        slots = model.noise(noise[row, position], ONE[:1])
        alone = plain(model, ids[row, : position + 1], slots)
        torch.testing.assert_close(hidden[row, position], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_double_pass_is_every_position_and_group_alone(family):
    model = model_of(family)
    ids, noise = rows(37, 2)
    tokens, _ = rows(37 * 2, 1, seed=1)
    tokens = tokens.view(2, 37, 2)
    hidden = model.forward_behind(model.read(ids), tokens, noise, ONE)
    for row, position in ((0, 0), (0, 36), (1, 5), (1, 33)):
        known = torch.cat([ids[row, : position + 1], tokens[row, position]])
        alone = plain(model, known, model.noise(noise[row, position], ONE[:1]))
        torch.testing.assert_close(hidden[row, position], alone, rtol=1e-4, atol=1e-4)


def test_packed_gradients_are_those_of_every_group_alone():
    model = model_of("llama")
    ids, noise = rows(4, 2)
    weights = torch.randn(2, 4, 2, 64)
    (model(ids, noise, ONE) * weights).sum().backward()
    packed = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    for row in range(2):
        for position in range(4):
            alone = plain(model, ids[row, : position + 1], model.noise(noise[row, position], ONE[:1]))
            (alone * weights[row, position]).sum().backward()
    for name, weight in model.named_parameters():
        scale = float(weight.grad.abs().max())
        torch.testing.assert_close(
            packed[name], weight.grad, rtol=0, atol=1e-4 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@torch.no_grad()
def test_fewer_tokens_are_the_first_of_more():
    model = model_of("qwen3")
    ids, noise = rows(6, 4)
    torch.testing.assert_close(model(ids, noise[..., :2], ONE), model(ids, noise, ONE)[:, :, :2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_passes_over_rows_of_other_lengths_are_plain_passes(family):
    model = model_of(family)
    ids, _ = rows(45, 1)
    noise = torch.rand(2, 3, dtype=torch.float64)
    cache = model.new_cache(2, 64)
    model.push(ids[:, :40], noise, ONE, cache)  # the noise behind them is not committed
    lengths = [38, 30]
    cache.set_lengths(lengths)
    new = torch.stack([ids[row, length : length + 5] for row, length in enumerate(lengths)])
    hidden = model.push(new, noise, ONE, cache)
    for row, length in enumerate(lengths):
        alone = plain(model, ids[row, : length + 5], model.noise(noise[row], ONE[:1]))
        torch.testing.assert_close(hidden[row], alone, rtol=1e-4, atol=1e-4)


def test_group_mask_by_its_definition():
    length, slots, window = 5, 3, 4
    mask = group_mask(length, slots, window, torch.device("cpu"))
    places = group_positions(length, slots, torch.device("cpu"))[0]
    for query in range(length * slots):
        group, order = divmod(query, slots)
        place = group + order + 1
        assert places[query] == place
        for key in range(length):
            assert mask[query, key] == (key <= group and place - key < window)
        for key in range(length * slots):
            other, before = divmod(key, slots)
            assert mask[query, length + key] == (other == group and before <= order and order - before < window)


def test_the_noise_encoder_has_the_size_of_its_source():
    assert sum(weight.numel() for weight in NoiseEncoder(768).parameters()) == 5_904_384


def test_features_are_cosines_and_sines_of_slowing_turns():
    encoder = NoiseEncoder(8, periods=2.0)
    u = torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)
    found = encoder.features(u)
    for i in range(4):
        angle = 2 * torch.pi * u * 2.0 * 10000 ** (-i / 4)
        torch.testing.assert_close(found[:, i], angle.cos())
        torch.testing.assert_close(found[:, 4 + i], angle.sin())


def test_a_saved_model_is_the_same(tmp_path):
    model = model_of("qwen2")
    model.save_pretrained(tmp_path)
    again = PushForwardModel.from_pretrained(tmp_path).eval()
    ids, noise = rows(5, 2)
    assert again.tokens_per_pass == 2
    torch.testing.assert_close(again(ids, noise, ONE), model(ids, noise, ONE), rtol=0, atol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("wrong", [-0.1, 1.0, float("nan")])
def test_noise_outside_its_interval_is_refused(wrong):
    with pytest.raises(ValueError, match=r"noise: has values outside \[0, 1\)"):
        check_noise(torch.tensor([0.5, wrong]))


@torch.no_grad()
def test_a_widened_copy_leaves_the_model_as_it_is():
    model = model_of("llama")
    wide = model.widened(4)
    assert (model.tokens_per_pass, wide.tokens_per_pass) == (2, 4)
    ids, noise = rows(3, 2)
    before = model(ids, noise, ONE)
    torch.testing.assert_close(wide(ids, noise, ONE), before, rtol=0, atol=0)
    for weight in wide.parameters():
        weight.zero_()
    torch.testing.assert_close(model(ids, noise, ONE), before, rtol=0, atol=0)
