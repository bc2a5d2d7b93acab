"""Every drafter that others published: read, decoded with, trained on, written back with nothing lost, or refused."""

import json
import math

import pytest
import torch
from published import DFLASH2, DRAFTERS, FULL, GPT_OSS_YARN, KIMI_YARN, MASK, SLIDING, VOCABULARY
from safetensors.torch import load_file
from transformers import Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from drafter.blocks import slot_ids
from drafter.decode import SpeculativeDecoder
from drafter.export import convert
from drafter.models import BlockDiffusionDrafter
from drafter.models.storage import Stored
from losses import score_blocks

SMALL = DRAFTERS["Qwen3-8B-DFlash-b16"]
NOTHING = {"auto_map", "attention_dropout", "use_cache", "rope_scaling", "max_window_layers", "use_sliding_window"}
PROMPT = [5, 17, 44, 8, 61]


def facts(directory):
    """What a stored drafter says of itself, its place and its layout apart."""
    return Stored(directory).facts


@pytest.mark.parametrize("name", DRAFTERS)
def test_a_published_drafter_is_read_decoded_trained_on_and_written_back(name, tmp_path):
    row = DRAFTERS[name]
    config, weights = row.publish(tmp_path / "theirs")
    drafter = BlockDiffusionDrafter.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    verifier = row.verifier()
    drafter.check_verifier(verifier)

    (found,) = SpeculativeDecoder(verifier, drafter).generate([PROMPT], 4)
    ids = torch.tensor([PROMPT + found.token_ids])
    states = verifier.states(ids, drafter.tap_layers)
    taps, final = states.clone().split([drafter.fc.in_features, drafter.hidden_size], dim=-1)
    assert verifier.logits(final)[0, len(PROMPT) - 1 : -1].argmax(-1).tolist() == found.token_ids

    anchors = torch.tensor([[5, 7]])
    block = verifier.embed(slot_ids(ids, anchors, row.block, MASK)).clone()
    hidden = drafter(block, taps, anchors)[:, :, 1:]
    labels = torch.randint(0, VOCABULARY, hidden.shape[:3], generator=torch.Generator().manual_seed(2))
    score_blocks(hidden, verifier.head.clone(), labels, torch.ones_like(labels, dtype=torch.bool)).nll.mean().backward()
    assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in drafter.parameters())

    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = json.loads((tmp_path / "ours/config.json").read_text())
    lost = {key for key, value in config.items() if key not in ours or (ours[key] != value and key != "dflash_config")}
    assert lost <= NOTHING
    assert config["dflash_config"].items() <= ours["dflash_config"].items()
    written = load_file(tmp_path / "ours/model.safetensors")
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[one], weight) for one, weight in weights.items())
    assert facts(tmp_path / "ours") == facts(tmp_path / "theirs")


@pytest.mark.parametrize("name", ["Qwen3-4B-DFlash-b16", "Kimi-K2.5-DFlash"])
@pytest.mark.parametrize("layout", ["transformers", "speculators"])
def test_another_layout_and_back_loses_nothing(name, layout, tmp_path):
    row = DRAFTERS[name]
    row.publish(tmp_path / "theirs")
    row.verifier().model.save_pretrained(tmp_path / "verifier")
    convert(tmp_path / "theirs", tmp_path / "other", layout, verifier=str(tmp_path / "verifier"))
    convert(tmp_path / "other", tmp_path / "back")
    assert facts(tmp_path / "back") == facts(tmp_path / "theirs")


def test_a_drafter_of_speculators_with_its_draft_vocabulary_and_without_a_verifiers_name(tmp_path):
    """As RedHatAI's: nested backbone with fields of old, taps counted from one, head rows of some tokens."""
    config = SMALL.config()
    ids = torch.tensor([3, 8, 17, 44, 90])
    backbone = {key: value for key, value in config.items() if key not in ("dflash_config", "block_size", "auto_map")}
    outer = {
        **{"architectures": ["DFlashDraftModel"], "speculators_model_type": "dflash", "speculators_version": "0.7.0"},
        **{"aux_hidden_state_layer_ids": [tap + 1 for tap in SMALL.taps], "block_size": 8, "mask_token_id": MASK},
        **{"draft_vocab_size": 5, "dtype": "bfloat16", "tie_word_embeddings": False, "num_target_layers": ...},
        "transformer_layer_config": backbone | {"rope_scaling": GPT_OSS_YARN},
        "speculators_config": {"algorithm": "dflash", "verifier": {"name_or_path": "", "architectures": []}},
    }
    added = {
        "d2t": ids - torch.arange(5),
        "t2d": torch.zeros(VOCABULARY, dtype=torch.bool).index_fill_(0, ids, True),
        "lm_head.weight": torch.ones(5, 64, dtype=torch.bfloat16),
        "embed_tokens.weight": torch.ones(VOCABULARY, 64, dtype=torch.bfloat16),
    }
    changes = dict.fromkeys(config, ...) | outer
    _, weights = SMALL.publish(tmp_path / "theirs", lambda found: found | added, **changes)
    drafter = BlockDiffusionDrafter.from_pretrained(tmp_path / "theirs")
    assert (drafter.block_size, list(drafter.tap_layers), drafter.vocabulary.tolist()) == (8, SMALL.taps, ids.tolist())
    assert drafter.config.rope_parameters["factor"] == 32
    convert(tmp_path / "theirs", tmp_path / "ours")
    again = BlockDiffusionDrafter.from_pretrained(tmp_path / "ours")
    assert again.vocabulary.tolist() == ids.tolist()
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in weights.items())
    with pytest.raises(ValueError, match=r"^verifier=None: .* say which with --verifier NAME$"):
        convert(tmp_path / "theirs", tmp_path / "named", "speculators")


NESTED = {"mask_token_id": MASK, "target_layer_ids": SMALL.taps}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}
WILD = {  # fields seen in the wild; what is read
    "block size and rotation nested": (
        {
            **dict.fromkeys(("block_size", "rope_theta", "rope_scaling"), ...),
            "dflash_config": NESTED | {"block_size": 16, "rope_parameters": PLAIN},
        },
        {"block_size": 16, "rope_parameters": PLAIN},
    ),
    "multimodal sections": (
        {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24], "mrope_interleaved": True}},
        {"rope_parameters": PLAIN},
    ),
    "one rotation for each kind of layer": (
        {"rope_parameters": {FULL: PLAIN, SLIDING: PLAIN}},
        {"rope_parameters": PLAIN},
    ),
    "a whole head rotated": ({"partial_rotary_factor": 1.0}, {"rope_parameters": PLAIN}),
    "windows as vLLM has them": (
        {"layer_types": ..., "dflash_config": NESTED | {"use_swa": True, "swa_window_size": 64}},
        {"layer_types": [SLIDING] * 5, "sliding_window": 64, "is_causal": False},
    ),
    "halves rotated, in so many words": ({"is_neox_style": True}, {}),
    "no sinks": ({"dflash_config": NESTED | {"attention_sink_bias": False}}, {}),
}


@pytest.mark.parametrize(("changes", "expected"), WILD.values(), ids=WILD)
def test_fields_seen_in_the_wild_are_read(changes, expected, tmp_path):
    SMALL.publish(tmp_path / "theirs", **changes)
    assert expected.items() <= facts(tmp_path / "theirs").items()
    BlockDiffusionDrafter.from_pretrained(tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "ours")
    assert facts(tmp_path / "ours") == facts(tmp_path / "theirs")


YARN = PLAIN | {"rope_type": "yarn", "factor": 4.0}
REFUSED = {
    "DFlash2": (DFLASH2, {}, "conv_kernel_size=2: the convolution of DFlash2"),
    "a path selector": (SMALL, {"dflash_config": NESTED | {"selector_rank": 256}}, "the path selector of DFlash2"),
    "sinks": (SMALL, {"dflash_config": NESTED | {"attention_sink_bias": True}}, "attention sinks"),
    "no taps": (SMALL, {"dflash_config": {"mask_token_id": MASK}}, "target_layer_ids is missing"),
    "partial rotary": (
        SMALL,
        {"partial_rotary_factor": 0.25},
        "partial_rotary_factor=0.25: this drafter rotates a part",
    ),
    "pairs of neighbours rotated": (SMALL, {"is_neox_style": False}, "is_neox_style=false: it rotates pairs of neigh"),
    "two rotations": (SMALL, {"rope_parameters": {FULL: PLAIN, SLIDING: YARN}}, "layers of two rotary embeddings"),
    "dynamic": (SMALL, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type='dynamic': must be one of"),
    "no factor": (SMALL, {"rope_scaling": {"type": "yarn"}}, "factor is missing: write that of training"),
    "a factor in words": (SMALL, {"rope_parameters": YARN | {"factor": "4"}}, "factor='4': no such yarn scaling"),
    "a field of another scaling": (SMALL, {"rope_parameters": YARN | {"long_factor": [1]}}, "long_factor"),
    "a rotation that is a list": (SMALL, {"rope_parameters": PLAIN | {"rope_type": ["yarn"]}}, "must be one of"),
    "a base beyond all numbers": (SMALL, {"rope_theta": 10**400}, "rope_theta=1000+: must be the verifier's RoPE base"),
    "a width beyond all numbers": (SMALL, {"hidden_size": 10**30}, "hidden_size=10+: must be the verifier's width"),
    "too few kinds of layers": (SMALL, {"layer_types": [FULL]}, "layer_types: names 1 layers, the drafter has 5"),
    "a cap of nothing": (
        SMALL,
        {"final_logit_softcapping": -30.0},
        "final_logit_softcapping=-30.0: must be the soft cap",
    ),
}


@pytest.mark.parametrize(("row", "changes", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_computed_here_is_refused_by_name(row, changes, why, tmp_path):
    row.publish(tmp_path / "theirs", **changes)
    with pytest.raises(ValueError, match=why) as error:
        BlockDiffusionDrafter.from_pretrained(tmp_path / "theirs")
    assert "\n" not in str(error.value)


def test_a_learned_mask_and_sinks_among_the_tensors_are_refused(tmp_path):
    sinks = {"layers.0.self_attn.sinks": torch.zeros(4)}
    SMALL.publish(tmp_path / "sinks", lambda found: found | sinks)
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.sinks: attention sinks"):
        BlockDiffusionDrafter.from_pretrained(tmp_path / "sinks")
    SMALL.publish(tmp_path / "mask")
    (tmp_path / "mask/mask_embedding.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="a mask vector that was learned"):
        BlockDiffusionDrafter.from_pretrained(tmp_path / "mask")


def test_a_drafter_of_another_cap_is_refused():
    row = DRAFTERS["gemma-4-31B-it-DFlash"]
    drafter = BlockDiffusionDrafter.config_class(**row.sizes, vocab_size=VOCABULARY, final_logit_softcapping=20.0)
    drafter.dflash_config, drafter.num_target_layers = {"target_layer_ids": row.taps}, row.of
    with pytest.raises(ValueError, match=r"final_logit_softcapping=20: .* the verifier's has 30"):
        BlockDiffusionDrafter(drafter).check_verifier(row.verifier())


def test_fused_projections_are_read_as_their_parts(tmp_path):
    def fuse(found):
        kept = {name: weight for name, weight in found.items() if "q_proj" not in name}
        for name in found:
            for fused, parts in {
                "qkv_proj": ("q_proj", "k_proj", "v_proj"),
                "gate_up_proj": ("gate_proj", "up_proj"),
            }.items():
                if parts[0] in name:
                    names = [name.replace(parts[0], part) for part in parts]
                    kept = {one: weight for one, weight in kept.items() if one not in names}
                    kept[name.replace(parts[0], fused)] = torch.cat([found[one] for one in names])
        return kept

    _, weights = SMALL.publish(tmp_path / "fused", fuse)
    assert len(load_file(tmp_path / "fused/model.safetensors")) == len(weights) - 3 * 5
    read = BlockDiffusionDrafter.from_pretrained(tmp_path / "fused").state_dict()
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
    convert(tmp_path / "fused", tmp_path / "ours")
    assert load_file(tmp_path / "ours/model.safetensors").keys() == weights.keys()
    SMALL.publish(tmp_path / "wrong", lambda found: {n: w[:-1] if "qkv" in n else w for n, w in fuse(found).items()})
    with pytest.raises(ValueError, match=r"q_proj\.weight is missing"):
        BlockDiffusionDrafter.from_pretrained(tmp_path / "wrong")


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "gpt-oss": GPT_OSS_YARN,
    "Kimi": {key: value for key, value in KIMI_YARN.items() if key != "type"} | {"rope_type": "yarn"},
    "an attention factor": GPT_OSS_YARN | {"attention_factor": 1.7},
}


@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_scaled_rotations_are_transformers_own(scaling, tmp_path):
    SMALL.publish(tmp_path / "theirs", rope_parameters=scaling | {"rope_theta": 1e6}, rope_theta=...)
    drafter = BlockDiffusionDrafter.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    same = Qwen3Config(head_dim=16, max_position_embeddings=4096, rope_parameters=scaling | {"rope_theta": 1e6})
    frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](same)
    assert torch.equal(drafter.rotary_emb.inv_freq, frequencies)
    positions = torch.tensor([[0, 3, 900, 4000]])
    angles = (positions[..., None] * frequencies.double()).repeat(1, 1, 2)
    cos, sin = drafter.rotary_emb(torch.zeros(1), positions)
    torch.testing.assert_close(cos.double(), angles.cos() * factor, rtol=0, atol=1e-3)
    torch.testing.assert_close(sin.double(), angles.sin() * factor, rtol=0, atol=1e-3)


def test_the_attention_factor_is_yarns():
    """0.1 ln(factor) + 1, unless one is named or both mscales cancel."""
    factors = {
        "yarn": 0.1 * math.log(4) + 1,
        "gpt-oss": 0.1 * math.log(32) + 1,
        "Kimi": 1.0,
        "an attention factor": 1.7,
    }
    for name, expected in factors.items():
        config = BlockDiffusionDrafter.config_class(
            **SMALL.sizes, rope_parameters=SCALINGS[name] | {"rope_theta": 1e6}, dflash_config=NESTED
        )
        assert BlockDiffusionDrafter(config).rotary_emb.attention_scaling == pytest.approx(expected)
