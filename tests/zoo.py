"""Every family of causal language models that transformers knows, tiny: exact as a verifier, or refused in one line.

    python tests/zoo.py

sweeps them all and writes the table of docs/verifiers.md. Models are in float64, so that exact means exact, and no
constant is left at the value that hides its loss: scales, caps, sinks, biases and gains are all set.
"""

import copy
import dataclasses
import re
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from drafter.verifier import Verifier
from drafter.verifier.loading import FOREIGN

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
PAGE = Path(__file__).parents[1] / "docs/verifiers.md"
MARK = "<!-- below: python tests/zoo.py -->"
TAPS_ONLY = "it can't be decoded here, only its taps can be read"
LENGTH, LARGEST = 24, 3_000_000
NEAR = 1e-4  # some families' own softmax is in float32 whatever comes in

WIDTHS = ("hidden_size", "d_model", "n_embd", "dim_model", "emb_dim", "lru_width", "mamba_d_ssm")
INNER = ("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "dim_ff", "ffn_hidden_size")
HEADS = ("num_attention_heads", "decoder_attention_heads", "encoder_attention_heads", "n_heads", "n_head", "num_heads")
SIZES = {
    **dict.fromkeys(WIDTHS, 32),
    **dict.fromkeys(INNER, 48),
    **dict.fromkeys(HEADS, 4),
    **dict.fromkeys(("num_hidden_layers", "decoder_layers", "n_layers", "n_layer", "num_decoder_layers"), 4),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers"), 1),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_layer_freq", "first_k_dense_replace"), 1),
    "vocab_size": 96,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 5,
    "attention_window_size": 5,
    "attention_chunk_size": 6,
    "logits_scaling": 3.0,
    "logit_scale": 0.4,
    "lm_head_multiplier": 0.6,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.7,
    "attention_multiplier": 0.3,
    "final_logit_softcapping": 2.0,
    "attn_logit_softcapping": 3.0,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "vocab_size_per_layer_input": 96,
    "hidden_size_per_layer_input": 8,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 4,
    "index_topk": 4,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "conv_L_cache": 3,
}

IMAGE = {"image_size": 28, "patch_size": 14}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
MIXED = ["conv", "full_attention", "conv", "full_attention"]
OWN = {  # what a family needs beside
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gemma4_unified_assistant": {"num_kv_shared_layers": 0},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 8},
    "lfm2": {"layer_types": MIXED},
    "lfm2_moe": {"layer_types": MIXED},
    "longcat_flash": {"num_layers": 2, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "roc_bert": {"pronunciation_vocab_size": 9, "shape_vocab_size": 9, "pronunciation_embed_dim": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
FLOAT32 = ("inkling2_text", "xglm")  # their own code takes no float64


class Unbuilt(Exception):
    """No tiny model of the family comes of the sizes here."""


def fields_of(config):
    """Names that a config's class declares, and what they are also called."""
    names = {field.name for field in dataclasses.fields(config)} | set(vars(config))
    return names | {other for name, other in type(config).attribute_map.items() if name in names or other in names}


def sizes_of(config):
    known = set() if config is None else fields_of(config)
    return {name: value for name, value in SIZES.items() if name in known}


def config_of(family, **overrides):
    base = AutoConfig.for_model(family)
    text = base.get_text_config(decoder=True)
    sizes = sizes_of(text)
    if "kv_lora_rank" in sizes:  # every head has its own keys, and rotates a part of them
        sizes |= {"num_key_value_heads": 4, "head_dim": sizes["qk_rope_head_dim"]}
    sizes |= OWN.get(family, {}) | overrides
    name = next((name for name in base.sub_configs if getattr(base, name) is text), None)
    if name is None:
        return AutoConfig.for_model(family, **sizes)
    others = {other: sizes_of(getattr(base, other)) | IMAGE for other in base.sub_configs if other != name}
    return AutoConfig.for_model(family, **{name: sizes}, **others)


def build(family, seed=0, **overrides):
    """A model whose every weight is random.

    Raises:
        Unbuilt: transformers makes none of these sizes, or none that runs on token ids alone.
    """
    dtype = torch.float32 if family in FLOAT32 else torch.float64
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            config = config_of(family, **overrides)
            with torch.device("meta"):
                size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
            if size > LARGEST:
                raise Unbuilt(f"{size} weights")
            model = AutoModelForCausalLM.from_config(config).eval()
            if model._can_set_experts_implementation():
                model.set_experts_implementation("eager")  # others take no float64
            randomise(model, seed)
            with torch.no_grad():
                model.to(dtype)(input_ids=torch.ones(1, 3, dtype=torch.long), use_cache=False)
        except FOREIGN as error:
            raise Unbuilt(f"{type(error).__name__}: {error}") from error
    return model


@torch.no_grad()
def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        spread = torch.randn(weight.shape, generator=generator)
        gain = weight.dim() == 1 and "norm" in name and "bias" not in name
        weight.copy_(gain + (0.3 if weight.dim() == 1 else 0.2) * spread)


def total_variation(got, own):
    """The largest over all positions of two sets of logits."""
    return float((got.softmax(-1) - own.softmax(-1)).abs().sum(-1).max() / 2)


@torch.inference_mode()
def furthest(verifier, own):
    """How far the verifier's laws and taps are from those of `own`, the model as transformers runs it."""
    ids = torch.randint(3, 90, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    taps = {}
    layers = [0, verifier.num_layers - 2]
    name = next(name for name, module in verifier.model.named_modules() if module is verifier.layers)
    for layer in layers:
        own.get_submodule(name)[layer].register_forward_hook(
            lambda _module, _arguments, out, layer=layer: taps.update(
                {layer: out[0] if isinstance(out, tuple) else out}
            )
        )
    logits = own(input_ids=ids, use_cache=False).logits
    taps = torch.cat([taps[layer] for layer in layers], dim=-1)
    states = verifier.states(ids, layers)
    found = [
        float((verifier.taps(ids, layers) - taps).abs().max()),
        total_variation(verifier.logits(states[..., taps.shape[-1] :]), logits),
    ]
    cache = verifier.new_cache(3, LENGTH)
    for start, end in ((0, 11), (11, 12), (12, LENGTH)):
        hidden, some = verifier.step(ids[:, start:end], cache, layers)
        found.append(total_variation(verifier.logits(hidden), logits[:, start:end]))
        found.append(float((some - taps[:, start:end]).abs().max()))
        cache.set_lengths([end] * 3)
    cache, lengths = verifier.new_cache(3, LENGTH), [5, 15, 20]
    for row, length in enumerate(lengths):
        verifier.step(ids[row : row + 1, :length], cache.row(row))
    cache.set_lengths(lengths)
    new = torch.stack([ids[row, length : length + 4] for row, length in enumerate(lengths)])
    hidden, _ = verifier.step(new, cache)
    for row, length in enumerate(lengths):
        found.append(total_variation(verifier.logits(hidden[row]), logits[row, length : length + 4]))
    return max(found)


def outcome(family, **overrides):
    """What becomes of a family: `exact`, or the line that refuses it.

    Raises:
        Unbuilt: see `build`.
        AssertionError: neither.
    """
    model = build(family, **overrides)
    own = copy.deepcopy(model)
    try:
        verifier = Verifier(model)
        verifier.new_cache(1, 1)
    except ValueError as error:
        what = str(error)
        if "\n" in what:
            raise AssertionError(f"{family}: more than a line: {what}") from error
        return what.removeprefix("verifier: ")
    far = furthest(verifier, own)
    assert far < NEAR, f"{family}: {far} from the model's own"
    return "exact"


def sweep(families=FAMILIES):
    """Each family with its outcome; those of which there is no tiny model, with why, apart."""
    found, untried = {}, {}
    for family in families:
        try:
            found[family] = outcome(family)
        except Unbuilt as error:
            untried[family] = str(error)
    return found, untried


def reason(what):
    """A refusal without the names and numbers of one model."""
    what = re.sub(r" \(by [^)]*\)", "", what.removesuffix(TAPS_ONLY).rstrip("; ").removesuffix("; choose another"))
    what = re.sub(r"\w+(ForCausalLM|LMHeadModel|Decoder|WithLMHead)\b:? ?", "", what).strip()
    return what.replace("of  ", "of it ").replace("of are", "are")


def page(found, untried):
    """What docs/verifiers.md says below its introduction."""
    exact = {family for family, what in found.items() if what == "exact"}
    tapped = {family: reason(what) for family, what in found.items() if what.endswith(TAPS_ONLY)}
    refused = {family: reason(what) for family, what in found.items() if family not in {*exact, *tapped}}
    lines = [
        f"With transformers {transformers.__version__}, of {len(FAMILIES)} families:",
        "",
        f"**Exact, {len(exact)}:** {named(exact)}",
        "",
        f"**Tapped, not decoded, {len(tapped)}.** `new_cache` says why, and: “{TAPS_ONLY}”.",
        "",
        *rows(tapped),
        "",
        f"**Refused when loaded, {len(refused)}.**",
        "",
        *rows(refused),
        "",
        f"**Not in the sweep, {len(untried)}:** no tiny model of text alone is made of a few sizes. A real one checks "
        f"itself when it is loaded, as all do: {named(untried)}",
    ]
    return "\n".join(lines) + "\n"


def named(families):
    return ", ".join(f"`{family}`" for family in sorted(families))


def rows(reasons):
    """A line of a table for each reason, with the families that it holds for."""
    together = {what: [family for family in reasons if reasons[family] == what] for what in reasons.values()}
    lines = [f"| {what} | {named(families)} |" for what, families in sorted(together.items())]
    return ["| what it says | families |", "|---|---|", *lines]


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    kept = PAGE.read_text().partition(MARK)[0]
    PAGE.write_text(kept + MARK + "\n\n" + page(*sweep()))
