"""The layout of vllm-project/speculators, which vLLM serves by the directory's name alone.

Facts: speculators 0.9.0 `models/dflash/config.py`, `models/dflash/core.py`, `model.py`; vllm 0.33.0
`transformers_utils/configs/speculators`. Two traps of vLLM's reader: `sliding_window_non_causal: false` makes every
layer causal, full attention too, so `true` is written; and taps are numbered from one, the embedding being number 0.
The embedding, and for a whole vocabulary the head, are the verifier's: speculators leaves them out when it saves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drafter.layouts.base import FACTS, FULL, MISSING, Layout, get, put

TOP_LEVEL = {"dtype", "block_size", "num_target_layers", "mask_token_id"}
PROPOSALS = "speculators_config.proposal_methods"
EXTRAS = {
    "draft_vocab_size": "draft_vocab_size",
    "verifier_name": "speculators_config.verifier.name_or_path",
    "verifier_architectures": "speculators_config.verifier.architectures",
}


@dataclass(frozen=True)
class Speculators(Layout):
    """Adds what depends on the verifier and on the draft vocabulary."""

    def expected(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        return super().expected(facts) | {"sliding_window_non_causal": facts.get("is_causal") is False}

    def write(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        if facts["is_causal"] is not False and FULL in facts["layer_types"]:
            raise ValueError(
                f"is_causal={facts['is_causal']}: in the speculators layout vLLM makes all layers causal or none, "
                "speculators the sliding ones; export to the canonical layout"
            )
        config = super().write({**facts, "is_causal": False}) | {
            "sliding_window_non_causal": facts["is_causal"] is False
        }
        put(config, PROPOSALS, [{"proposal_type": "greedy", "speculative_tokens": facts["block_size"] - 1}])
        for fact, path in EXTRAS.items():
            if facts.get(fact) is None:
                raise ValueError(
                    f"{fact}=None: the speculators layout names its verifier; say which with --verifier NAME"
                )
            put(config, path, facts[fact])
        return config

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        facts = super().read(config)
        if get(config, "sliding_window_non_causal") is not True:
            facts["is_causal"] = None  # sliding layers are causal
        return facts | {fact: value for fact, path in EXTRAS.items() if (value := get(config, path)) is not MISSING}


def _place(fact: str) -> str:
    if fact == "target_layer_ids":
        return "aux_hidden_state_layer_ids"
    return fact if fact in TOP_LEVEL else f"transformer_layer_config.{fact}"


SPECULATORS = Speculators(
    name="speculators",
    fixed={
        "architectures": ["DFlashDraftModel"],
        "speculators_model_type": "dflash",
        "speculators_version": "0.9.0",
        "sample_from_anchor": False,
        "tie_word_embeddings": False,
        "transformer_layer_config.model_type": "qwen3",
        "speculators_config.algorithm": "dflash",
        "speculators_config.default_proposal_method": "greedy",
    },
    places={fact: _place(fact) for fact in FACTS if fact != "is_causal"},
    assumed={"is_causal": False},
    tap_offset=1,
    side_file=False,
)
