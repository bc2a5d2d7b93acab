"""The layout of transformers' own DFlash assistant (5.15.1 and later), which is named after the first model to use it.

Facts: transformers 5.23.0 `models/muse_glimmer_assistant`, `generation/candidate_generator.py`. Every layer is
bidirectional there and has no attention bias; the layer types default to all sliding and the special ids to those of
another vocabulary, so both are written.
"""

from drafter.layouts.base import FACTS, Layout

ABSENT = {"rope_theta", "attention_bias", "sliding_window", "tie_word_embeddings"}

TRANSFORMERS = Layout(
    name="transformers",
    fixed={
        "architectures": ["MuseGlimmerAssistantModel"],
        "model_type": "muse_glimmer_assistant",
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
    places={fact: fact for fact in FACTS if fact not in ABSENT},
    assumed={"attention_bias": False, "sliding_window": None, "tie_word_embeddings": False},
    renames={"fc.": "encoder.fc.", "hidden_norm.": "encoder.output_norm_enc."},
)
