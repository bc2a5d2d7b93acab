"""The push-forward model: packed passes, caches and files against one plain pass over one row and its noise."""

import pytest
import torch
from conftest import make_verifier

from drafter.attention import sdpa
from drafter.models.push_forward import NoiseEncoder, PushForwardModel, check_noise
from drafter.models.push_forward.packed import Context, Groups, group_mask, group_positions

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


@pytest.mark.parametrize("window", [None, 4])
def test_group_mask_by_its_definition(window):
    groups, row, slots = range(2, 5), range(1, 5), 3
    mask = group_mask(groups, row, slots, window, torch.device("cpu"))
    places = group_positions(5, slots, torch.device("cpu"))[0]
    for query in range(len(groups) * slots):
        group, order = groups[query // slots], query % slots
        place = group + order + 1
        assert places[group * slots + order] == place
        for at, key in enumerate(row):
            assert mask[query, at] == (key <= group and (window is None or place - key < window))
        for key in range(len(groups) * slots):
            other, before = groups[key // slots], key % slots
            near = window is None or order - before < window
            assert mask[query, len(row) + key] == (other == group and before <= order and near)


@pytest.mark.parametrize("window", [None, 2, 5, 30])
@pytest.mark.parametrize("queries", [1, 9, 32, 1000])
def test_groups_attend_in_parts_as_all_at_once(window, queries):
    """Values and gradients, with keys shared by heads."""
    length, slots, generator = 13, 3, torch.Generator().manual_seed(0)

    def draw(count, heads):
        made = torch.randn(2, count, heads, 8, dtype=torch.float64, generator=generator)
        return made.requires_grad_()

    row = [draw(length, 2), draw(length, 2)]
    query, key, value = draw(length * slots, 4), draw(length * slots, 2), draw(length * slots, 2)
    context = Context()
    context.layers[0] = row[0], row[1]
    everything = query, key, value, *row
    found = Groups(context, slots, queries).attend(0, query, key, value, causal=True, scale=0.3, window=window)
    dense = group_mask(range(length), range(length), slots, window, query.device)[None, None]
    keys, values = torch.cat([row[0], key], dim=1), torch.cat([row[1], value], dim=1)
    whole = sdpa.attend(query, keys, values, dense, 0.3)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    slope = torch.randn(whole.shape, dtype=torch.float64, generator=generator)
    ours, theirs = (torch.autograd.grad(out, everything, slope) for out in (found, whole))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [None, 6])
def test_no_part_is_wider_than_what_it_sees(window):
    context = Context()
    context.layers[0] = (torch.zeros(1, 40, 1, 2),) * 2
    parts = list(Groups(context, 4, 16).parts(window))
    assert [group for groups, _ in parts for group in groups] == list(range(40))
    assert all(row.stop == groups.stop for groups, row in parts)
    assert max(len(row) for _, row in parts) == (40 if window is None else 4 + window - 2)


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
