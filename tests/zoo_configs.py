"""Tiny configs of every family: no constant is left at the value that hides its loss."""

import dataclasses

from transformers import AutoConfig

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
    "chunk_size": 8,
    "mamba_chunk_size": 8,
}

IMAGE = {"image_size": 28, "patch_size": 14}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
MIXED = ["conv", "full_attention", "conv", "full_attention"]
SHARED = {
    "layers_block_type": ["linear_attention", "hybrid"] * 2,
    "attention_hidden_size": 64,
    "attention_head_dim": 16,
}
OWN = {  # what a family needs beside, and of what its parts are made
    "blt": {
        "patcher_config": {},
        "encoder_config": {"hidden_size_global": 32},
        "decoder_config": {"hidden_size_global": 32},
        "global_config": {},
        "encoder_hash_byte_group_vocab": 50,
        "encoder_hash_byte_group_size": [3, 4],
    },
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0, "kv_n_heads": 2},
        "ffn_config": {"moe_top_k": 2},
        "max_seq_len": 256,
    },
    "dots3_note_text": {
        "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "mlp_layer_types": ["dense", "sparse"] * 2,
        "n_group": 2,
        "head_dim": 12,
        "per_layer_config": {},
    },
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "git": {"vision_config": IMAGE},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 8},
    "lfm2": {"layer_types": MIXED},
    "lfm2_moe": {"layer_types": MIXED},
    "longcat_flash": {"num_layers": 2, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1},
    "phi4_multimodal": {
        "vision_config": {**IMAGE, "crop_size": 28},
        "audio_config": {
            **{"num_blocks": 1, "ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32},
            "nemo_conv_channels": 8,
        },
    },
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        **{"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4},
        **{"indexer_compress_ratio": 2, "ple_embed_dim": 8, "hc_lowrank": 8, "split_ngram_parts": 1},
        **{"ngram_vocab_size_base": 50, "heads_per_ngram": 2, "make_ngram_vocab_size_divisible_by": 1},
    },
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "roc_bert": {"pronunciation_vocab_size": 9, "shape_vocab_size": 9, "pronunciation_embed_dim": 8},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    "zamba": {**SHARED, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "zamba2": {
        **SHARED,
        **{"hybrid_layer_ids": [1, 3], "n_mamba_heads": 8, "mamba_headdim": 8, "num_query_groups": 4},
        "kv_channels": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}
ASSISTANT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0, "num_kv_shared_layers": 4}
ADAPTED = {"adapter_out_dim": 32}
TEXT_OF = {  # families around another one's text part
    "dots3_note": (
        "dots3_note_text",
        {},
        {"vision_config": ADAPTED, "audio_config": ADAPTED},
    ),
    "gemma4_assistant": ("gemma4_text", ASSISTANT, {"backbone_hidden_size": 32}),
    "gemma4_unified_assistant": ("gemma4_unified_text", {"num_kv_shared_layers": 4}, {"backbone_hidden_size": 32}),
    "qwen4_exp": ("qwen4_exp_text", {}, {}),
}


def fields_of(config):
    """Names that a config's class declares, and what they are also called."""
    names = {field.name for field in dataclasses.fields(config)} | set(vars(config))
    return names | {other for name, other in type(config).attribute_map.items() if name in names or other in names}


def sizes_of(config):
    known = set() if config is None else fields_of(config)
    return {name: value for name, value in SIZES.items() if name in known}


def config_of(family, **overrides):
    """A family's config, small, with `overrides` in its text part."""
    if family in TEXT_OF:
        text, own, others = TEXT_OF[family]
        return AutoConfig.for_model(family, text_config=config_of(text, **own, **overrides).to_dict(), **others)
    base = AutoConfig.for_model(family)
    text = base.get_text_config(decoder=True)
    sizes = sizes_of(text)
    if "kv_lora_rank" in sizes:  # every head has its own keys, and rotates a part of them
        sizes |= {"num_key_value_heads": 4, "head_dim": sizes["qk_rope_head_dim"]}
    sizes |= OWN.get(family, {}) | overrides
    given = {other: sizes_of(part) for other in base.sub_configs if (part := getattr(base, other)) is not None}
    name = next((name for name in given if getattr(base, name) is text), None)
    if name is None:
        parts = {other: given[other] | sizes.pop(other) for other in given if other in sizes}
        return AutoConfig.for_model(family, **sizes, **parts)
    others = {other: sizes_of_part | IMAGE for other, sizes_of_part in given.items() if other != name}
    return AutoConfig.for_model(family, **others | {name: sizes})
