"""The drafter: against a float64 loop, what a block may and may not see, the cached path against the parallel one."""

import sys

import naive
import pytest
import torch
import zoo
from conftest import MASK_TOKEN, make_drafter, make_verifier
from transformers import Mamba2Config

from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for, evenly_spaced, sizes_of
from drafter.verifier import VerifierHead
from drafter.verifier.tokenizer import context_length

ANCHORS = [[4, 5, 13], [0, 9, 19]]
LENGTH = 20


@pytest.fixture(scope="module")
def drafter():
    return make_drafter(make_verifier("llama"))


@pytest.fixture
def inputs(drafter):
    """Blocks [B, A, K, D], taps [B, S, T*D] and anchors [B, A] of noise."""
    generator = torch.Generator().manual_seed(0)
    anchors = torch.tensor(ANCHORS)
    block = torch.randn(2, 3, drafter.block_size, drafter.config.hidden_size, generator=generator)
    taps = torch.randn(2, LENGTH, drafter.fc.in_features, generator=generator)
    return block, taps, anchors


def noise_like(x):
    return 100 * torch.randn(x.shape, generator=torch.Generator().manual_seed(99))


def test_forward_matches_a_loop_over_blocks_and_heads(drafter, inputs):
    block, taps, anchors = inputs
    with torch.no_grad():
        hidden = drafter(block, taps, anchors)
    for row in range(2):
        for index, anchor in enumerate(ANCHORS[row]):
            expected = naive.fill_block(drafter, block[row, index], taps[row, :anchor], anchor)
            torch.testing.assert_close(hidden[row, index].double(), expected, rtol=2e-4, atol=2e-4)


def test_taps_at_and_after_the_anchor_change_nothing(drafter, inputs):
    block, taps, anchors = inputs
    before = drafter(block, taps, anchors)
    for row in range(2):
        for index, anchor in enumerate(ANCHORS[row]):
            changed = taps.clone()
            changed[row, anchor:] = noise_like(changed[row, anchor:])
            assert torch.equal(drafter(block, changed, anchors)[row, index], before[row, index])


def test_every_tap_before_the_anchor_counts(drafter, inputs):
    block, taps, anchors = inputs
    before = drafter(block, taps, anchors)
    for row in range(2):
        for index, anchor in enumerate(ANCHORS[row]):
            for position in range(anchor):
                changed = taps.clone()
                changed[row, position] = noise_like(changed[row, position])
                after = drafter(block, changed, anchors)[row, index]
                assert not torch.isclose(after, before[row, index]).all(-1).any()  # in all slots


def test_other_blocks_change_nothing(drafter, inputs):
    block, taps, anchors = inputs
    before = drafter(block, taps, anchors)
    for index in range(3):
        changed = noise_like(block)
        changed[:, index] = block[:, index]
        assert torch.equal(drafter(changed, taps, anchors)[:, index], before[:, index])


def test_every_slot_sees_every_slot_of_its_block(drafter, inputs):
    block, taps, anchors = inputs
    before = drafter(block, taps, anchors)
    for slot in range(drafter.block_size):
        changed = block.clone()
        changed[:, :, slot] = noise_like(changed[:, :, slot])
        assert not torch.isclose(drafter(changed, taps, anchors), before).all(-1).any()


def test_other_documents_change_nothing(drafter, inputs):
    block, taps, anchors = inputs
    documents = torch.zeros(2, LENGTH, dtype=torch.long)
    documents[0, 3:12], documents[0, 12:], documents[1, 8:] = 1, 2, 1
    before = drafter(block, taps, anchors, documents)
    for row in range(2):
        for index, anchor in enumerate(ANCHORS[row]):
            other = documents[row] != documents[row, anchor]
            changed = taps.clone()
            changed[row, other] = noise_like(changed[row, other])
            assert torch.equal(drafter(block, changed, anchors, documents)[row, index], before[row, index])
    assert not torch.equal(before, drafter(block, taps, anchors))  # without documents those taps are seen


@pytest.mark.parametrize("chunks", [[20], [1] * 20, [7, 4, 9]], ids=["whole", "one by one", "chunks"])
def test_cached_path_equals_the_parallel_one(drafter, inputs, chunks):
    block, taps, anchors = inputs
    with torch.no_grad():
        expected = drafter(block, taps, anchors)
        cache = drafter.new_cache(2, LENGTH + drafter.block_size)
        start = 0
        for size in chunks:
            cache.set_lengths([start, start])
            drafter.extend(taps[:, start : start + size], cache)
            start += size
        for index in range(3):
            cache.set_lengths([ANCHORS[0][index], ANCHORS[1][index]])
            drafted = drafter.draft(block[:, index], cache)
            torch.testing.assert_close(drafted, expected[:, index], rtol=1e-4, atol=1e-4)
            cache.set_lengths([0, 0])  # the draft overwrote slots behind the committed ones: put the context back
            drafter.extend(taps, cache)


def test_a_draft_commits_nothing(drafter, inputs):
    block, taps, _ = inputs
    with torch.no_grad():
        cache = drafter.new_cache(2, LENGTH + drafter.block_size)
        drafter.extend(taps, cache)
        cache.set_lengths([8, 15])
        first = drafter.draft(block[:, 0], cache)
        drafter.draft(noise_like(block[:, 1]), cache)
        assert torch.equal(drafter.draft(block[:, 0], cache), first)
        assert cache.lengths.tolist() == [8, 15]


def test_config_takes_the_verifiers_shape(verifier):
    drafter = make_drafter(verifier)
    theirs = verifier.config
    assert drafter.config.hidden_size == theirs.hidden_size
    assert drafter.config.num_key_value_heads == theirs.num_key_value_heads
    assert drafter.config.head_dim == theirs.head_dim
    assert drafter.config.num_target_layers == theirs.num_hidden_layers
    assert drafter.config.vocab_size == verifier.head.shape[0]
    assert drafter.fc.weight.shape == (theirs.hidden_size, 2 * theirs.hidden_size)
    parameters = theirs.rope_parameters
    parameters = parameters.get("full_attention", parameters)
    assert drafter.config.rope_parameters["rope_theta"] == parameters["rope_theta"]


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("gpt_neox", {"layer_norm_eps": 2e-4}, (8, 4, 48, 2e-4)),  # names no key heads
        ("starcoder2", {"norm_epsilon": 3e-4}, (8, 2, 48, 3e-4)),  # no RMS norm
        ("gemma4_text", {"global_head_dim": 16, "rms_norm_eps": 4e-4}, (16, 2, 48, 4e-4)),  # layers differ: the last's
    ],
)
def test_config_takes_the_shape_of_any_family(family, settings, expected):
    verifier = VerifierHead(zoo.build(family, **settings))
    config = config_for(verifier, num_layers=1, block_size=4, tap_layers=[0, 2], mask_token_id=40)
    found = (config.head_dim, config.num_key_value_heads, config.intermediate_size, config.rms_norm_eps)
    assert found == expected


def test_layers_of_two_widths_have_a_config_and_a_fingerprint():
    """What differs from layer to layer, transformers refuses to read as the model's."""
    model = zoo.build("llama")
    same = VerifierHead(model).fingerprint()
    model.config.per_layer_config = {3: {"intermediate_size": 96}}
    verifier = VerifierHead(model)
    config = config_for(verifier, num_layers=1, block_size=4, tap_layers=[0, 2], mask_token_id=40)
    assert config.intermediate_size == 96
    assert verifier.fingerprint() != same


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tap_layers": [1, 5]}, "drafter.tap_layers"),
        ({"tap_layers": [-1, 3]}, "drafter.tap_layers"),
        ({"tap_layers": [3, 1]}, "drafter.tap_layers"),
        ({"tap_layers": [2, 2]}, "drafter.tap_layers"),
        ({"tap_layers": []}, "drafter.tap_layers"),
        ({"mask_token_id": 288}, "drafter.mask_token_id=288"),
        ({"mask_token_id": -1}, "drafter.mask_token_id=-1"),
        ({"mask_token_id": 0}, "drafter.mask_token_id=0"),
    ],
)
def test_config_refuses_what_does_not_fit_the_verifier(setting, message):
    settings = {"num_layers": 1, "block_size": 4, "tap_layers": [1], "mask_token_id": MASK_TOKEN} | setting
    with pytest.raises(ValueError, match=message):
        config_for(make_verifier("llama"), **settings)


def test_a_verifier_without_attention_is_refused_in_a_line():
    with pytest.raises(
        ValueError, match=r"^verifier: a Mamba2Config names no num_attention_heads, which a drafter takes"
    ):
        sizes_of(Mamba2Config())


def test_a_model_that_names_no_longest_row_reads_any(tmp_path):
    Mamba2Config().save_pretrained(tmp_path)
    assert context_length(str(tmp_path)) == sys.maxsize


def test_evenly_spaced_taps_are_those_of_dflash():
    assert evenly_spaced(36, 5) == [1, 9, 17, 25, 33]
    assert evenly_spaced(30, 5) == [1, 8, 14, 20, 27]
    assert evenly_spaced(6, 3) == [1, 2, 3]
    assert evenly_spaced(6, 1) == [3]


def test_a_drafter_refuses_another_verifier(drafter):
    other = make_verifier("llama").config.num_hidden_layers + 1
    changed = make_drafter(make_verifier("llama"))
    changed.config.num_target_layers = other
    drafter.check_verifier(make_verifier("llama"))
    with pytest.raises(ValueError, match="made for a verifier of"):
        changed.check_verifier(make_verifier("llama"))


def test_saving_keeps_weights_and_vocabulary(drafter, inputs, tmp_path):
    drafter = make_drafter(make_verifier("llama"), seed=1)
    drafter.vocabulary = torch.tensor([3, 5, 8])
    drafter.save_pretrained(tmp_path)
    again = BlockDiffusionDrafter.from_pretrained(tmp_path)
    assert torch.equal(again.vocabulary, drafter.vocabulary)
    assert torch.equal(again(*inputs), drafter(*inputs))


def test_the_draft_vocabulary_moves_with_its_module_and_stands_in_no_file():
    drafter = make_drafter(make_verifier("llama"))
    drafter.vocabulary = torch.tensor([3, 5, 8])
    assert "vocabulary" not in drafter.state_dict()
    assert drafter.to("meta").vocabulary.device.type == "meta"
    assert drafter.to(torch.bfloat16).vocabulary.dtype == torch.int64


@pytest.mark.parametrize("bias", [False, True])
def test_shapes_are_those_of_the_layout(bias):
    """Written out once more, as engines expect them."""
    facts = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 16,
        "target_layer_ids": [1, 3, 4],
        "attention_bias": bias,
    }
    expected = {"fc.weight": (48, 144), "hidden_norm.weight": (48,), "norm.weight": (48,)}
    for layer in ("layers.0", "layers.1"):
        expected |= {f"{layer}.{name}_layernorm.weight": (48,) for name in ("input", "post_attention")}
        for name, shape in {"q": (96, 48), "k": (48, 48), "v": (48, 48), "o": (48, 96)}.items():
            expected[f"{layer}.self_attn.{name}_proj.weight"] = shape
            if bias:
                expected[f"{layer}.self_attn.{name}_proj.bias"] = shape[:1]
        expected |= {f"{layer}.self_attn.{name}_norm.weight": (16,) for name in "qk"}
        expected |= {f"{layer}.mlp.{name}_proj.weight": (80, 48) for name in ("gate", "up")}
        expected[f"{layer}.mlp.down_proj.weight"] = (48, 80)
    assert BlockDiffusionDrafter.shapes(facts) == expected
    with pytest.raises(ValueError, match="num_hidden_layers=1001: must lie between 1 and 1000"):
        BlockDiffusionDrafter.shapes(facts | {"num_hidden_layers": 1001})
