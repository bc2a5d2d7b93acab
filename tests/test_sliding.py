"""Drafters of others with sliding or causal layers: read, decoded and written as they were trained."""

import json

import pytest
import torch
from conftest import MASK_TOKEN, NEW_TOKENS, make_answers, make_drafter, make_prompts, make_verifier
from test_export_layouts import same_files
from test_published import publish, published
from transformers import AutoModel
from transformers.cache_utils import DFlashCache

from drafter.blocks import block_mask, narrowed, slot_ids, slot_positions
from drafter.check import check
from drafter.decode import SpeculativeDecoder
from drafter.export import convert
from drafter.models import BlockDiffusionDrafter

FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = 6
MIXED = {"layer_types": [SLIDING, FULL], "sliding_window": WINDOW, "use_sliding_window": True, "rope_theta": 10000}
ALL = MIXED | {"layer_types": [SLIDING, SLIDING]}
KINDS = {  # as published; what each layer is: (causal, window)
    "mixed, by the engines' rule": (MIXED, [(True, WINDOW), (False, None)]),
    "mixed, bidirectional": (MIXED | {"is_causal": False}, [(False, WINDOW), (False, None)]),
    "all sliding, by the engines' rule": (ALL, [(True, WINDOW), (True, WINDOW)]),
    "all sliding, bidirectional": (ALL | {"is_causal": False}, [(False, WINDOW), (False, WINDOW)]),
    "full, causal": ({"is_causal": True, "rope_theta": 10000}, [(True, None), (True, None)]),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def read(request, tmp_path):
    changes, kinds = request.param
    directory = publish(tmp_path / "z", make_drafter(make_verifier("qwen3")), published(**changes))
    return directory, BlockDiffusionDrafter.from_pretrained(directory, dtype=torch.float32), kinds


def test_each_layer_attends_as_it_was_trained(read):
    _, drafter, kinds = read
    assert [(layer.causal, layer.window) for layer in drafter.layers] == kinds


@pytest.mark.parametrize("window", [None, 4, 6, 100])
@pytest.mark.parametrize("causal", [False, True])
def test_a_narrowed_mask_is_its_definition(causal, window):
    anchors, length, size = torch.tensor([[3, 9], [0, 5]]), 12, 4
    mask = narrowed(block_mask(anchors, length, size), anchors, length, size, causal, window)
    positions = slot_positions(anchors, size).flatten(1)
    for row in range(2):
        for query in range(2 * size):
            at = int(positions[row, query])
            for key in range(length + 2 * size):
                own = key >= length
                there = int(positions[row, key - length]) if own else key
                seen = (key - length) // size == query // size if own else there < int(anchors[row, query // size])
                seen = seen and not (causal and there > at) and not (window and abs(at - there) >= window)
                assert bool(mask[row, query, key]) == seen


def test_training_and_serving_paths_agree(read):
    _, drafter, _ = read
    verifier, size = make_verifier("qwen3"), drafter.block_size
    ids = torch.randint(3, 259, (1, 40), generator=torch.Generator().manual_seed(3))
    anchors = torch.tensor([[0, 2, 11, 30]])
    taps = verifier.taps(ids, drafter.tap_layers).clone()
    block = verifier.embed(slot_ids(ids, anchors, size, MASK_TOKEN))
    with torch.no_grad():
        trained = drafter(block, taps, anchors)
        for index, anchor in enumerate(anchors[0].tolist()):
            cache = drafter.new_cache(1, 60)
            if anchor:
                drafter.extend(taps[:, :anchor], cache)
                cache.set_lengths([anchor])
            torch.testing.assert_close(drafter.draft(block[:, index], cache), trained[:, index], rtol=1e-4, atol=1e-4)


def test_decoding_is_lossless(read):
    _, drafter, _ = read
    found = SpeculativeDecoder(make_verifier("qwen3"), drafter).generate(make_prompts(), NEW_TOKENS, batch_size=3)
    assert [one.token_ids for one in found] == make_answers("qwen3")


def test_every_layout_that_takes_it_keeps_it(read, tmp_path):
    directory, _, kinds = read
    convert(directory, tmp_path / "canonical")
    causal = {causal for causal, _ in kinds}
    slides = {window for _, window in kinds} == {WINDOW}
    takes = {"transformers": causal == {False}, "speculators": causal == {False} or (causal == {True} and slides)}
    for layout, possible in takes.items():
        if not possible:
            with pytest.raises(ValueError, match="export to the canonical"):
                convert(directory, tmp_path / layout, layout, verifier="tiny-qwen3")
            continue
        convert(directory, tmp_path / layout, layout, verifier="tiny-qwen3")
        again = BlockDiffusionDrafter.from_pretrained(tmp_path / layout)
        assert [(layer.causal, layer.window) for layer in again.layers] == kinds
        assert check(tmp_path / layout, "tiny-qwen3").ok
        convert(tmp_path / layout, tmp_path / "back")
        assert same_files(tmp_path / "canonical", tmp_path / "back", but=["README.md"])
    report = check(tmp_path / "canonical", "tiny-qwen3")
    assert report.ok, str(report)


def test_what_the_canonical_config_says_of_causality(read, tmp_path):
    directory, _, kinds = read
    convert(directory, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    said = {causal for causal, _ in kinds}
    if len(said) == 1:
        assert [config["is_causal"]] == [config["dflash_config"]["causal"]] == list(said)
    else:  # no word for it: engines go by the layer types
        assert "is_causal" not in config
        assert "causal" not in config["dflash_config"]


@pytest.mark.parametrize("kinds", [[FULL, FULL], [SLIDING, SLIDING], [SLIDING, FULL]])
def test_transformers_sees_one_position_further(kinds, tmp_path):
    """Its window takes in the distance `sliding_window` itself; z-lab's, vLLM's, SGLang's and ours end one before."""
    verifier = make_verifier("qwen3")
    config = published(**MIXED) | {"layer_types": kinds, "is_causal": False}
    convert(publish(tmp_path / "z", make_drafter(verifier), config), tmp_path / "out", "transformers")
    assistant, loading = AutoModel.from_pretrained(tmp_path / "out", dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values())
    drafter = BlockDiffusionDrafter.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for layer in drafter.layers:
        layer.window = layer.window and layer.window + 1
    ids = torch.randint(3, 259, (1, 20), generator=torch.Generator().manual_seed(5))
    taps = verifier.taps(ids, drafter.tap_layers).clone()
    anchors = torch.tensor([[19]])
    block = verifier.embed(slot_ids(ids, anchors, 4, MASK_TOKEN))
    with torch.no_grad():
        ours = drafter(block, taps, anchors)[:, 0]
        cache = DFlashCache(config=assistant.config)
        cache.activate_past_recording()
        cache.set_previous_accepted_tokens(19)
        theirs = assistant(block[:, 0], taps[:, :19], past_key_values=cache).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_windows_where_other_exporters_put_them(tmp_path):
    drafter = make_drafter(make_verifier("qwen3"))
    nested = {"mask_token_id": MASK_TOKEN, "target_layer_ids": [1, 3], "use_swa": True, "swa_window_size": WINDOW}
    bare = {key: value for key, value in published(dflash_config=nested).items() if key != "layer_types"}
    read = BlockDiffusionDrafter.from_pretrained(publish(tmp_path / "a", drafter, bare))
    assert [(layer.causal, layer.window) for layer in read.layers] == [(False, WINDOW)] * 2
    derived = {key: value for key, value in published(**MIXED, max_window_layers=1).items() if key != "layer_types"}
    read = BlockDiffusionDrafter.from_pretrained(publish(tmp_path / "b", drafter, derived))
    assert [(layer.causal, layer.window) for layer in read.layers] == [(False, None), (True, WINDOW)]
