"""`config.json` against the contract: every field there, of its type, in range, agreeing with verifier and training.

Stricter than the engines on purpose. vLLM accepts a mask id outside the vocabulary, taps outside the verifier and a
missing tap list; where a field is missing, engines fill in a default that is rarely the trained one.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from drafter.check.report import Finding
from drafter.check.verifier import SGLANGS_MASK, VerifierFacts
from drafter.layouts import MISSING, RULES, Layout, get
from drafter.layouts.base import FULL, SLIDING
from drafter.layouts.rope import flaws
from drafter.layouts.rules import exactly
from drafter.layouts.speculators import EXTRAS, PROPOSALS

HARMLESS = {
    "attention_dropout": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": None,
    "max_window_layers": None,
    "pad_token_id": None,
    "torch_dtype": None,
    "transformers_version": None,
    "use_cache": None,
    "is_neox_style": exactly(True),
    "rope_scaling": exactly(None),
    "use_sliding_window": exactly(False),
}
"""Fields that transformers adds and that change nothing, and the only value of those that could."""


def check_fields(
    config: Mapping[str, Any], layout: Layout, verifier: VerifierFacts, trained: Mapping[str, Any]
) -> list[Finding]:
    """Every field of `config.json`.

    Args:
        trained: the facts that training recorded; empty where it recorded none.
    """
    places = {**layout.places, **(EXTRAS if layout.name == "speculators" else {})}
    facts = layout.read(config)
    mixed = _mixed(facts.get("layer_types"))
    facts["is_causal"] = trained.get("is_causal", facts.get("is_causal") if mixed is not None else False)
    found = [*_fixed(config, layout, facts), *_unknown(config, layout, places)]
    facts = layout.read(config)
    good: dict[str, Any] = {}
    for fact, path in places.items():
        value = get(config, path)
        test, wanted = RULES[fact]
        truth = verifier.truths.get(fact, trained.get(fact, MISSING))
        if value is MISSING and fact == "is_causal" and mixed and trained.get(fact) is None:
            continue  # sliding layers causal, the others not: engines know that by no word
        if value is MISSING and fact in layout.silent and trained.get(fact, layout.silent[fact]) == layout.silent[fact]:
            continue
        if value is MISSING:
            found.append(Finding(path, f"{path} is missing: write {_said(truth, fact, layout, wanted)}"))
        elif not test(value):
            found.append(Finding(path, f"{path}={_json(value)}: must be {wanted}"))
        else:
            good[fact] = facts.get(fact, value)
    return [*found, *_between(good, layout, verifier, config), *_agreement(good, layout, verifier, trained)]


def _mixed(kinds: Any) -> bool | None:
    """Whether some layers slide and others don't; None where none slides."""
    if not isinstance(kinds, list) or SLIDING not in kinds:
        return None
    return FULL in kinds


def _fixed(config: Mapping[str, Any], layout: Layout, facts: Mapping[str, Any]) -> Iterator[Finding]:
    for path, expected in layout.expected(facts).items():
        value = get(config, path)
        if value is MISSING:
            yield Finding(path, f"{path} is missing: write {_json(expected)}")
        elif path == "speculators_version" and isinstance(value, str):
            continue
        elif type(value) is not type(expected) or value != expected:
            why = "; `false` makes vLLM's every layer causal" if path == "sliding_window_non_causal" else ""
            yield Finding(path, f"{path}={_json(value)}: must be {_json(expected)}{why}")


def _unknown(config: Mapping[str, Any], layout: Layout, places: Mapping[str, str]) -> Iterator[Finding]:
    known = {*layout.expected({"is_causal": False}), *places.values(), PROPOSALS, "dflash_config.mask_token"}
    known |= {"sliding_window"} if layout.name == "transformers" else set()
    folders = {path.rpartition(".")[0] for path in known} - {""}
    folders |= {folder.split(".")[0] for folder in folders}

    def look(level: Mapping[str, Any], prefix: str) -> Iterator[Finding]:
        for key, value in level.items():
            path = f"{prefix}{key}"
            if path in folders and isinstance(value, dict):
                yield from look(value, f"{path}.")
            elif key == "auto_map":
                yield Finding(path, f"{path}: names remote code, which no engine needs; remove it")
            elif key in HARMLESS and path not in known:
                test = HARMLESS[key]
                if test is not None and not test(value):
                    yield Finding(path, f"{path}={_json(value)}: the drafter was not trained so; remove it")
            elif path not in known:
                yield Finding(path, f"{path}: belongs to no field of the {layout.name} layout; remove it")

    yield from look(config, "")


def _agreement(
    good: Mapping[str, Any], layout: Layout, verifier: VerifierFacts, trained: Mapping[str, Any]
) -> Iterator[Finding]:
    """Facts against the verifier's and against those of training."""
    for fact, value in good.items():
        path, shown = layout.places.get(fact) or EXTRAS[fact], _shown(value, fact, layout)
        if value != trained.get(fact, value):
            yield Finding(
                path, f"{path}={shown}: it was trained with {_shown(trained[fact], fact, layout)}; write that"
            )
        elif value != verifier.truths.get(fact, value):
            remedy = "name the verifier of its training" if fact in trained else "write that, or name its own verifier"
            theirs = _shown(verifier.truths[fact], fact, layout)
            yield Finding(path, f"{path}={shown}: the verifier {verifier.name!r} has {theirs}; {remedy}")
    longest = good.get("max_position_embeddings")
    if longest is not None and longest < verifier.longest:
        path = layout.places["max_position_embeddings"]
        yield Finding(path, f"{path}={longest}: shorter than the verifier's context; write {verifier.longest}")


def _between(
    good: Mapping[str, Any], layout: Layout, verifier: VerifierFacts, config: Mapping[str, Any]
) -> Iterator[Finding]:
    """Facts against each other."""
    path = layout.places

    heads, shared = good.get("num_attention_heads"), good.get("num_key_value_heads")
    if heads and shared and heads % shared:
        yield Finding(
            path["num_key_value_heads"],
            f"{path['num_key_value_heads']}={shared}: must divide num_attention_heads={heads}",
        )
    kinds, depth = good.get("layer_types"), good.get("num_hidden_layers")
    if kinds is not None and depth and len(kinds) != depth:
        yield Finding(
            path["layer_types"], f"{path['layer_types']}={_json(kinds)}: write one for each of {depth} layers"
        )
    yield from _window(good, layout, config)
    yield from _rope(good, layout, verifier)
    yield from _taps(good, layout)
    yield from _mask(good, layout, verifier, config)
    if layout.name == "speculators":
        yield from _proposals(good, config)


def _window(good: Mapping[str, Any], layout: Layout, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Sliding layers have a window, others none, and what sees only backwards was trained so."""
    if "layer_types" not in good:
        return
    path = layout.places.get("sliding_window", "sliding_window")
    window, slides = get(config, path), SLIDING in good["layer_types"]
    if slides and (type(window) is not int or window < good.get("block_size", 1)):
        yield Finding(
            path, f"{path}={_json(window)}: layers slide; write the window of training, at least a block long"
        )
    elif not slides and window not in (None, MISSING) and layout.name != "transformers":
        yield Finding(path, f"{path}={_json(window)}: no layer slides; write null")


def _rope(good: Mapping[str, Any], layout: Layout, verifier: VerifierFacts) -> Iterator[Finding]:
    rope = good.get("rope_parameters")
    if rope is None:
        return
    base, path = verifier.truths["rope_theta"], layout.places["rope_parameters"]
    for flaw in flaws(rope):
        yield Finding(path, f"{path}.{flaw}")
    if rope.get("rope_theta") != base:
        yield Finding(path, f"{path}.rope_theta={_json(rope.get('rope_theta'))}: must be {base}, the verifier's base")


def _taps(good: Mapping[str, Any], layout: Layout) -> Iterator[Finding]:
    taps, depth, first = good.get("target_layer_ids"), good.get("num_target_layers"), layout.tap_offset
    if taps is None or depth is None:
        return
    path, shown = layout.places["target_layer_ids"], _shown(taps, "target_layer_ids", layout)
    if any(not 0 <= tap < depth - 1 for tap in taps):
        yield Finding(
            path,
            f"{path}={shown}: must lie between {first} and {depth - 2 + first}, counted from {first}; the last of the "
            f"verifier's {depth} layers is normed before engines read it",
        )
    elif taps != sorted(set(taps)):
        yield Finding(path, f"{path}={shown}: must be distinct and ascending, the order in which fc reads them")


def _mask(
    good: Mapping[str, Any], layout: Layout, verifier: VerifierFacts, config: Mapping[str, Any]
) -> Iterator[Finding]:
    mask, path = good.get("mask_token_id"), layout.places["mask_token_id"]
    if mask is None:
        return
    size = verifier.truths["vocab_size"]
    if mask >= size:
        yield Finding(path, f"{path}={mask}: the verifier's ids end at {size - 1}; write the id used in training")
    if mask in verifier.special:
        yield Finding(
            path,
            f"{path}={mask}: is the verifier's {verifier.special[mask]} token; train with one that text never uses",
        )
    named = get(config, "dflash_config.mask_token")
    token = named if isinstance(named, str) else SGLANGS_MASK
    known = verifier.tokens.get(token)
    if known not in (None, mask):
        yield Finding(path, f"{path}={mask}: the tokenizer's {token} is {known} and SGLang refuses that; train with it")


def _proposals(good: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Finding]:
    path = f"{PROPOSALS}.0.speculative_tokens"
    drafts = get(config, path)
    if "block_size" in good and (type(drafts) is not int or drafts != good["block_size"] - 1):
        said = " is missing" if drafts is MISSING else f"={_json(drafts)}"
        yield Finding(path, f"{path}{said}: write {good['block_size'] - 1}, one less than block_size")
    if get(config, f"{PROPOSALS}.0.proposal_type") != "greedy":
        yield Finding(PROPOSALS, f'{PROPOSALS}.0.proposal_type: must be "greedy"')
    if {"draft_vocab_size", "vocab_size"} <= good.keys() and good["draft_vocab_size"] > good["vocab_size"]:
        yield Finding(
            "draft_vocab_size",
            f"draft_vocab_size={good['draft_vocab_size']}: at most vocab_size={good['vocab_size']}; export again",
        )


def _said(truth: Any, fact: str, layout: Layout, wanted: str) -> str:
    return wanted if truth is MISSING else _shown(truth, fact, layout)


def _shown(value: Any, fact: str, layout: Layout) -> str:
    """A fact as this layout would write it."""
    if fact == "target_layer_ids" and isinstance(value, list):
        value = [one + layout.tap_offset for one in value]
    return _json(value)


def _json(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:100]} ..."
