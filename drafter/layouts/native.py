"""The layout of transformers' own DFlash assistant (5.15.1 and later), which is named after the first model to use it.

Facts: transformers 5.23.0 `models/muse_glimmer_assistant`, `generation/candidate_generator.py`. Every layer is
bidirectional there and has no attention bias; the layer types default to all sliding and the special ids to those of
another vocabulary, so both are written. Its window takes in the distance `sliding_window` itself (`masking_utils.py`),
one position more than in z-lab's code, vLLM, SGLang and here; the number is kept as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drafter.layouts.base import FACTS, SLIDING, Layout

ABSENT = {"rope_theta", "attention_bias", "sliding_window"}


@dataclass(frozen=True)
class Native(Layout):
    """Has a window only where a layer slides: its default is a number."""

    def write(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        if facts["is_causal"] is not False:
            raise ValueError(
                f"is_causal={facts['is_causal']}: the transformers layout is bidirectional; export to the canonical one"
            )
        config = super().write({**facts, "sliding_window": None})
        return config if facts["sliding_window"] is None else config | {"sliding_window": facts["sliding_window"]}

    def read(self, config: Mapping[str, Any]) -> dict[str, Any]:
        facts = super().read(config)
        kinds = facts.get("layer_types")
        slides = kinds is None or (isinstance(kinds, list) and SLIDING in kinds)
        return facts | {"sliding_window": config.get("sliding_window") if slides else None}


TRANSFORMERS = Native(
    name="transformers",
    fixed={
        "architectures": ["MuseGlimmerAssistantModel"],
        "model_type": "muse_glimmer_assistant",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    places={fact: fact for fact in FACTS if fact not in ABSENT},
    silent={"final_logit_softcapping": None, "tie_word_embeddings": False},
    assumed={"attention_bias": False, "is_causal": False, "sliding_window": None},
    renames={"fc.": "encoder.fc.", "hidden_norm.": "encoder.output_norm_enc."},
)
