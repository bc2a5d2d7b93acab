"""Defects of an export, each with the rule by which `check` must name it; docs/results/serving has the table."""

import torch
from safetensors.torch import save_file
from spoil import Defect, field, file, other_verifier, poked, rebased, renamed, tensors, unrecorded, widened

from drafter.layouts import MISSING

Q, K = "layers.0.self_attn.q_norm.weight", "layers.0.self_attn.k_norm.weight"
GATE, UP = "layers.0.mlp.gate_proj.weight", "layers.0.mlp.up_proj.weight"


swapped_norms = tensors(lambda found: {Q: found[K], K: found[Q]}, K)
swapped_mlp = tensors(lambda found: {GATE: found[UP], UP: found[GATE]}, GATE)
swapped_taps = tensors(lambda found: {"fc.weight": found["fc.weight"].roll(64, 1)}, "fc.weight")
swapped_layers = tensors(
    lambda found: {
        name: found[name.replace(f"rs.{index}.", f"rs.{1 - index}.")]
        for index in (0, 1)
        for name in found
        if f"rs.{index}." in name
    },
    Q,
)
wrong_taps = field("dflash_config.target_layer_ids", [2, 4])
wrong_mask = field("dflash_config.mask_token_id", 3)
wrong_base = field("rope_theta", 500.0)
NESTED = "dflash_config"
INNER = "transformer_layer_config"

MISSING_FIELDS = {
    f"{path} missing": field(path, MISSING)
    for path in (
        "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "vocab_size",
        "max_position_embeddings", "rope_theta", "rope_parameters", "layer_types", "sliding_window", "is_causal",
        "tie_word_embeddings", "dtype", "block_size", "num_target_layers", f"{NESTED}.mask_token_id",
        f"{NESTED}.target_layer_ids", f"{NESTED}.sample_from_anchor", f"{NESTED}.causal",
    )
}  # fmt: skip

WRONG_TYPES = {
    "hidden_size a string": field("hidden_size", "64"),
    "block_size a float": field("block_size", 4.0),
    "mask_token_id a string": field(f"{NESTED}.mask_token_id", "<|mask|>"),
    "mask_token_id null": field(f"{NESTED}.mask_token_id", None),
    "taps a string": field(f"{NESTED}.target_layer_ids", "1,3"),
    "taps an empty list": field(f"{NESTED}.target_layer_ids", []),
    "taps of floats": field(f"{NESTED}.target_layer_ids", [1.0, 3.0]),
    "dflash_config a list": field(NESTED, [], rule=f"{NESTED}.mask_token_id"),
    "layer_types a string": field("layer_types", "full_attention"),
    "is_causal a number": field("is_causal", 0),
    "rope_parameters a number": field("rope_parameters", 10000.0),
    "dtype unknown": field("dtype", "int8"),
    "rms_norm_eps a string": field("rms_norm_eps", "1e-6"),
}

WRONG_VALUES = {
    "mask id = vocabulary size": field(f"{NESTED}.mask_token_id", 288),
    "mask id negative": field(f"{NESTED}.mask_token_id", -1),
    "mask id = end of text": field(f"{NESTED}.mask_token_id", 0),
    "mask id off by one": wrong_mask,
    "tap on the last layer": field(f"{NESTED}.target_layer_ids", [1, 5]),
    "tap past the verifier": field(f"{NESTED}.target_layer_ids", [1, 6]),
    "tap negative": field(f"{NESTED}.target_layer_ids", [-1, 3]),
    "taps off by one (counted from the embedding)": wrong_taps,
    "taps in another order": field(f"{NESTED}.target_layer_ids", [3, 1]),
    "one tap too few": field(f"{NESTED}.target_layer_ids", [1], rule="fc.weight"),
    "causal flag true": field("is_causal", True),
    "causal flag true for vLLM alone": field(f"{NESTED}.causal", True),
    "causal sliding layers": field("layer_types", ["sliding_attention", "full_attention"]),
    "a layer type too few": field("layer_types", ["full_attention"]),
    "sliding window set": field("sliding_window", 2048),
    "use_sliding_window true": field("use_sliding_window", True),
    "wrong RoPE base": wrong_base,
    "wrong RoPE base in rope_parameters": field("rope_parameters", {"rope_type": "default", "rope_theta": 1e6}),
    "partial rotary": field("rope_parameters.partial_rotary_factor", 0.5, rule="rope_parameters"),
    "partial rotary, top level": field("partial_rotary_factor", 0.5),
    "pairs of neighbours rotated": field("is_neox_style", False),
    "scaled RoPE": field("rope_parameters.rope_type", "yarn", rule="rope_parameters"),
    "rope_scaling set": field("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    "block size larger than trained": field("block_size", 8),
    "block size of one": field("block_size", 1),
    "anchor sampled from": field(f"{NESTED}.sample_from_anchor", True),
    "architecture of the backbone": field("architectures", ["Qwen3ForCausalLM"]),
    "architecture of DFlash2": field("architectures", ["DFlash2DraftModel"]),
    "model type of another backbone": field("model_type", "llama"),
    "depth off by one": field("num_hidden_layers", 3),
    "verifier depth off by one": field("num_target_layers", 7),
    "width of another verifier": field("hidden_size", 128),
    "vocabulary of the tokenizer, not of the head": field("vocab_size", 259),
    "context shorter than the verifier's": field("max_position_embeddings", 512),
    "context shorter than the verifier's, unrecorded": Defect(
        unrecorded(field("max_position_embeddings", 512)).spoil, "max_position_embeddings"
    ),
    "head count swapped": field("num_attention_heads", 2),
    "key heads that do not divide": field("num_key_value_heads", 3),
    "head width halved": field("head_dim", 8),
    "another activation": field("hidden_act", "gelu"),
    "another epsilon": field("rms_norm_eps", 1e-5),
    "attention bias claimed": field("attention_bias", True),
    "tied head": field("tie_word_embeddings", True),
    "dtype not that of the tensors": field("dtype", "float16", rule="fc.weight"),
    "draft vocabulary claimed": field("draft_vocab_size", 100),
    "DFlash2's convolution claimed": field(f"{NESTED}.conv_kernel_size", 2),
    "remote code named": field("auto_map", {"AutoModel": "dflash.DFlashDraftModel"}),
}

WRONG_TENSORS = {
    "fc missing": tensors(lambda found: {"fc.weight": None}, "fc.weight"),
    "context norm missing": tensors(lambda found: {"hidden_norm.weight": None}, "hidden_norm.weight"),
    "final norm missing": tensors(lambda found: {"norm.weight": None}, "norm.weight"),
    "a query norm missing": tensors(lambda found: {Q: None}, Q),
    "a projection missing": tensors(lambda found: {UP: None}, UP),
    "an unknown tensor": tensors(lambda found: {"extra.weight": found["norm.weight"]}, "extra.weight"),
    "a layer too many": tensors(
        lambda found: {name.replace("layers.0", "layers.2"): value for name, value in found.items() if "rs.0" in name},
        "layers.2.mlp.up_proj.weight",
    ),
    "an embedding shipped": tensors(lambda found: {"embed_tokens.weight": torch.ones(288, 64)}, "embed_tokens.weight"),
    "a head shipped": tensors(lambda found: {"lm_head.weight": torch.ones(288, 64)}, "lm_head.weight"),
    "a mask state shipped": tensors(lambda found: {"mask_hidden": torch.ones(64)}, "mask_hidden"),
    "rotary buffer shipped": tensors(lambda found: {"rotary_emb.inv_freq": torch.ones(8)}, "rotary_emb.inv_freq"),
    "names with a prefix": tensors(lambda found: renamed(found, "model."), "model.fc.weight"),
    "fc of the wrong width": tensors(lambda found: {"fc.weight": found["fc.weight"][:, :64]}, "fc.weight"),
    "fc transposed": tensors(lambda found: {"fc.weight": found["fc.weight"].T}, "fc.weight"),
    "a square projection transposed": tensors(
        lambda found: {"layers.1.self_attn.o_proj.weight": found["layers.1.self_attn.o_proj.weight"].T},
        "layers.1.self_attn.o_proj.weight",
    ),
    "NaN in a projection": poked(GATE, float("nan")),
    "infinity in a norm": poked("hidden_norm.weight", float("inf")),
    "a tensor of zeros": tensors(lambda found: {UP: torch.zeros_like(found[UP])}, UP),
    "one value changed": poked("fc.weight", 3.0),
    "one tensor in float32": tensors(lambda found: {"norm.weight": found["norm.weight"].float()}, "norm.weight"),
    "q and k norms swapped": swapped_norms,
    "gate and up projections swapped": swapped_mlp,
    "taps concatenated in another order": swapped_taps,
}

WRONG_FILES = {
    "a pickle beside the weights": file("mask_embedding.pt", b"x"),
    "code beside the weights": file("dflash.py", b"x"),
    "a second weights file": Defect(
        lambda directory: save_file({"ids": torch.ones(2)}, directory / "ids.safetensors"), "ids.safetensors"
    ),
    "weights cut off": Defect(
        lambda directory: (directory / "model.safetensors").write_bytes(
            (directory / "model.safetensors").read_bytes()[:-64]
        ),
        "weights",
    ),
    "weights missing": file("model.safetensors", None, "weights"),
    "an index beside a single file": file("model.safetensors.index.json", b'{"weight_map": {}}', "weights"),
    "config.json missing": file("config.json", None, "files"),
    "config.json cut off": file("config.json", b'{"architectures": [', "files"),
    "config.json of another model": file("config.json", b'{"architectures": ["LlamaForCausalLM"]}', "files"),
    "training.json cut off": file("training.json", b"{", "files"),
    "draft vocabulary past the verifier's": file("draft_vocabulary.json", b'{"ids": [3, 288]}'),
    "draft vocabulary in disorder": file("draft_vocabulary.json", b'{"ids": [5, 3]}'),
}

UNRECORDED = {
    "layers in another order, unrecorded": unrecorded(swapped_layers),
    "gate and up swapped, unrecorded": unrecorded(swapped_mlp),
    "taps off by one, unrecorded": unrecorded(wrong_taps),
    "taps concatenated in another order, unrecorded": unrecorded(swapped_taps),
    "mask id off by one, unrecorded": unrecorded(wrong_mask),
}

OTHER_VERIFIERS = {
    "another verifier of the same width": other_verifier("verifier", seed=1, dynamic=True),
    "another family of the same width": other_verifier("verifier", family="llama", dynamic=True),
    "a wider verifier": other_verifier("hidden_size", widened),
    "a verifier with another RoPE base": other_verifier("rope_theta", rebased),
    "a verifier with another tokenizer": other_verifier("tokenizer", rename="<|new|>"),
    "a tokenizer with SGLang's mask token": other_verifier("dflash_config.mask_token_id", rename="<|MASK|>"),
}

OF_SPECULATORS = {
    "full layers made causal": field("sliding_window_non_causal", False, "speculators"),
    "causality left out": field("sliding_window_non_causal", MISSING, "speculators"),
    "taps counted from zero": field("aux_hidden_state_layer_ids", [1, 3], "speculators"),
    "taps left out": field("aux_hidden_state_layer_ids", MISSING, "speculators"),
    "mask id left out": field("mask_token_id", MISSING, "speculators"),
    "as many drafts as slots": field(
        "speculators_config.proposal_methods",
        [{"proposal_type": "greedy", "speculative_tokens": 4}],
        "speculators",
        "speculators_config.proposal_methods.0.speculative_tokens",
    ),
    "no verifier named": field("speculators_config.verifier.name_or_path", None, "speculators"),
    "RoPE base of the backbone left out": field(f"{INNER}.rope_theta", MISSING, "speculators"),
    "ids for offsets": tensors(
        lambda found: {"d2t": found["d2t"] + torch.arange(len(found["d2t"]))}, "d2t", "speculators"
    ),
    "mask of other tokens": tensors(lambda found: {"t2d": found["t2d"].roll(1)}, "t2d", "speculators"),
    "no offsets": tensors(lambda found: {"d2t": None}, "d2t", "speculators"),
    "another vocabulary size": field("draft_vocab_size", 7, "speculators", "d2t"),
    "head rows of other tokens": Defect(
        tensors(lambda found: {"lm_head.weight": found["lm_head.weight"].roll(1, 0)}, "").spoil,
        "lm_head.weight",
        "speculators",
        dynamic=True,
    ),
}

OF_TRANSFORMERS = {
    "layer types left to the default, all sliding": field("layer_types", MISSING, "transformers"),
    "vocabulary size left out": field("vocab_size", MISSING, "transformers"),
    "special ids of another vocabulary": field("eos_token_id", 200001, "transformers"),
    "tensors under canonical names": tensors(
        lambda found: {"encoder.fc.weight": None, "fc.weight": found["encoder.fc.weight"]}, "fc.weight", "transformers"
    ),
    "a wrong base": field("rope_parameters.rope_theta", 500000.0, "transformers", "rope_parameters"),
    "mask id off by one": field("mask_token_id", 3, "transformers"),
}

DEFECTS = {
    **MISSING_FIELDS,
    **WRONG_TYPES,
    **WRONG_VALUES,
    **WRONG_TENSORS,
    **WRONG_FILES,
    **UNRECORDED,
    **OTHER_VERIFIERS,
    **{f"speculators: {name}": defect for name, defect in OF_SPECULATORS.items()},
    **{f"transformers: {name}": defect for name, defect in OF_TRANSFORMERS.items()},
}
