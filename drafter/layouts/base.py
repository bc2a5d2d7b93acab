"""What a layout is: where it keeps each fact of a drafter, and how it names the tensors.

A drafter's facts are one flat dictionary, the same for every layout; its tensors have our own names. A layout turns
both into what one family of engines reads, and back, without loss.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "missing", "__bool__": lambda self: False})()

# What every drafter says of itself. `mask_token_id` and `target_layer_ids` (0-based; a tap is that layer's output),
# `num_target_layers` and `vocab_size` are the verifier's; the rest is a Qwen3 decoder's, under Qwen3's names.
FACTS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "attention_bias",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
    "rope_parameters",
    "layer_types",
    "sliding_window",  # None where no layer slides
    "is_causal",  # of all layers; None where sliding ones are causal and the others are not
    "tie_word_embeddings",  # as published; a drafter has nothing to tie
    "final_logit_softcapping",  # of the verifier's head, which is the drafter's; None where it says nothing
    "dtype",
    "block_size",
    "num_target_layers",
    "mask_token_id",
    "target_layer_ids",
)


SHAPES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "target_layer_ids",
)
"""The facts that decide a drafter's tensors and their shapes, beside `attention_bias`."""

FULL, SLIDING = "full_attention", "sliding_attention"
DEEPEST = 1000  # a number beyond is a slip, and would be asked for all its tensors


@dataclass(frozen=True)
class Layout:
    """One way of writing a drafter.

    Attributes:
        name: what the command line calls it.
        fixed: dotted path in `config.json` → the value that stands there in every drafter of this layout.
        places: fact → dotted path in `config.json`.
        silent: fact → the value that is not written.
        assumed: facts that have no place here, with the only value that this layout can express; a fact that has
            neither follows from the others.
        renames: prefixes of our tensor names → this layout's.
        tap_offset: what is added to our 0-based tap layers.
        side_file: whether a draft vocabulary goes into a file of its own, which the engines ignore.
    """

    name: str
    fixed: Mapping[str, Any]
    places: Mapping[str, str]
    silent: Mapping[str, Any] = field(default_factory=lambda: {"final_logit_softcapping": None})
    assumed: Mapping[str, Any] = field(default_factory=dict)
    renames: Mapping[str, str] = field(default_factory=dict)
    tap_offset: int = 0
    side_file: bool = True

    def expected(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Path → the value that must stand there, for a drafter with these facts."""
        return dict(self.fixed)

    def write(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """`config.json` of a drafter.

        Raises:
            ValueError: this layout can't express one of the facts.
        """
        config: dict[str, Any] = {}
        for path, value in self.expected(facts).items():
            put(config, path, copy.deepcopy(value))
        for fact in FACTS:
            if fact in self.silent and facts.get(fact) == self.silent[fact]:
                continue
            if fact in self.places:
                value = [tap + self.tap_offset for tap in facts[fact]] if fact == "target_layer_ids" else facts[fact]
                put(config, self.places[fact], copy.deepcopy(value))
            elif fact in self.assumed and facts[fact] != self.assumed[fact]:
                raise ValueError(
                    f"{fact}={facts[fact]!r}: the {self.name} layout knows only {self.assumed[fact]!r}; "
                    "export to the canonical layout"
                )
        return config

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The facts that `config.json` states, as far as it states them."""
        facts = {**self.assumed, **self.silent}
        for fact, path in self.places.items():
            value = get(config, path)
            if value is not MISSING:
                facts[fact] = value
        taps = facts.get("target_layer_ids")
        if isinstance(taps, list) and all(isinstance(tap, int) for tap in taps):
            facts["target_layer_ids"] = [tap - self.tap_offset for tap in taps]
        return facts

    def tensor(self, name: str) -> str:
        """This layout's name of our tensor `name`."""
        for ours, theirs in self.renames.items():
            if name.startswith(ours):
                return theirs + name.removeprefix(ours)
        return name


def settled(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts whose causality, where it is left to the engines' rule, is said by it: sliding layers are causal."""
    kinds = set(facts["layer_types"])
    causal = facts.get("is_causal")
    if causal is None and len(kinds) == 1:
        causal = kinds == {SLIDING}
    return {**facts, "is_causal": causal, "sliding_window": facts.get("sliding_window") if SLIDING in kinds else None}


def get(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested dictionaries and lists, or MISSING."""
    value: Any = config
    for part in path.split("."):
        if isinstance(value, list) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else MISSING
        else:
            value = value.get(part, MISSING) if isinstance(value, Mapping) else MISSING
    return value


def put(config: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path of nested dictionaries."""
    *parents, last = path.split(".")
    for part in parents:
        config = config.setdefault(part, {})
    config[last] = value
