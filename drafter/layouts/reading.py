"""The facts of a drafter that someone else wrote: fields in other places, or left to defaults."""

import json
from collections.abc import Mapping
from typing import Any

from drafter.layouts.base import FULL, SLIDING, Layout, get, settled
from drafter.layouts.rope import flaws, read_rope
from drafter.layouts.rules import RULES

REQUIRED = ("mask_token_id", "target_layer_ids", "hidden_size", "num_hidden_layers", "block_size")
OPEN = (
    "dtype",
    "num_target_layers",
    "sliding_window",
    "is_causal",
    "verifier_architectures",
    "verifier_name",
    "vocab_size",
    "final_logit_softcapping",
)
"""Facts that a published drafter may leave open."""
NESTED_TOO = ("block_size", "num_target_layers", "final_logit_softcapping")
"""Facts that some write into `dflash_config`, which SGLang reads first."""
FOREIGN = {
    "conv_kernel_size": "the convolution of DFlash2",
    "selector_rank": "the path selector of DFlash2",
    "attention_sink_bias": "attention sinks",
    "add_swa_attention_sink_bias": "attention sinks",
    "add_full_attention_sink_bias": "attention sinks",
    "attention_value_scale": "scaled attention values",
    "output_multiplier": "logits scaled apart from the verifier's head",
    "input_embedding_scale": "embeddings scaled apart from the verifier's",
}
"""Fields of drafters that compute something else, and what it is."""
QWEN3_FULL_LAYERS = 28  # Qwen3Config.max_window_layers


def read_facts(config: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """The facts of a `config.json`, published variants included.

    Raises:
        ValueError: one is missing that has no default, or has a value that no drafter of this kind has.
    """
    if any(get(config, path) is True for path in ("sample_from_anchor", "dflash_config.sample_from_anchor")):
        raise ValueError("config.json: sample_from_anchor=true: such drafters predict from slot 0; choose another")
    places = ("", "dflash_config.", "transformer_layer_config.")
    if any(get(config, f"{place}is_neox_style") is False for place in places):
        raise ValueError(
            "config.json: is_neox_style=false: it rotates pairs of neighbours, no drafter here does; choose another"
        )
    nested = config.get("dflash_config")
    nested = nested if isinstance(nested, Mapping) else {}
    for name, what in FOREIGN.items():
        if value := nested.get(name) or config.get(name):
            raise ValueError(
                f"config.json: {name}={json.dumps(value)}: {what}, which no drafter here has; choose another"
            )
    facts = layout.read(config)
    for fact in NESTED_TOO:
        if nested.get(fact) is not None:
            facts[fact] = nested[fact]
    for fact in REQUIRED:
        if facts.get(fact) is None:
            raise ValueError(f"config.json: {layout.places[fact]} is missing; take it from the drafter's training")
    backbone = get(config, layout.places["hidden_size"].rpartition(".")[0]) or config
    facts["rope_parameters"] = rope = read_rope(backbone, nested, facts.get("rope_theta", 10000.0))  # Qwen3Config's own
    facts["rope_theta"] = rope["rope_theta"]
    for flaw in flaws(rope):
        raise ValueError(f"config.json: {layout.places['rope_parameters']}.{flaw}")
    facts["tie_word_embeddings"] = facts.get("tie_word_embeddings") or False
    facts["final_logit_softcapping"] = facts.get("final_logit_softcapping") or None
    if facts.get("is_causal") is None and isinstance(nested.get("causal"), bool) and layout.name == "canonical":
        facts["is_causal"] = nested["causal"]
    if not isinstance(facts.get("is_causal"), bool | None):
        raise ValueError(
            f"config.json: is_causal={json.dumps(facts['is_causal'], default=str)[:100]}: must be a boolean"
        )
    if facts.get("layer_types") is None:
        facts |= _kinds(config, facts, nested)
    for fact, value in facts.items():
        if (fact not in OPEN or value) and not RULES[fact][0](value):
            place = layout.places.get(fact, fact)
            raise ValueError(f"config.json: {place}={json.dumps(value, default=str)[:100]}: must be {RULES[fact][1]}")
    if len(facts["layer_types"]) != facts["num_hidden_layers"]:
        place, kinds = layout.places["layer_types"], len(facts["layer_types"])
        raise ValueError(f"config.json: {place}: names {kinds} layers, the drafter has {facts['num_hidden_layers']}")
    facts = settled(facts)
    window = facts["sliding_window"]
    if SLIDING in facts["layer_types"] and (window is None or window < facts["block_size"]):
        raise ValueError(f"config.json: sliding_window={window}: must be at least block_size={facts['block_size']}")
    return facts


def _kinds(config: Mapping[str, Any], facts: Mapping[str, Any], nested: Mapping[str, Any]) -> dict[str, Any]:
    """The layer types where none are written: as Qwen3Config derives them, or as vLLM's `use_swa` sets them."""
    depth = facts["num_hidden_layers"]
    if not RULES["num_hidden_layers"][0](depth):
        return {"layer_types": [FULL]}
    if nested.get("use_swa") is True:
        window = nested.get("swa_window_size", facts.get("sliding_window"))
        return {
            "layer_types": [SLIDING] * depth,
            "sliding_window": window,
            "is_causal": facts.get("is_causal") or False,
        }
    if config.get("model_type") == "muse_glimmer_assistant":
        return {"layer_types": [SLIDING] * depth, "sliding_window": config.get("sliding_window", 2048)}
    first = config.get("max_window_layers", QWEN3_FULL_LAYERS)
    slides = bool(config.get("use_sliding_window")) and facts.get("sliding_window") is not None
    first = first if slides and type(first) is int else depth
    return {"layer_types": [FULL if index < first else SLIDING for index in range(depth)]}
