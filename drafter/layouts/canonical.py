"""The layout of the published DFlash drafters, which vLLM, SGLang and SpecForge read.

Facts: z-lab/dflash `dflash/model.py`; vllm 0.33.0 `model_executor/models/qwen3_dflash.py`; sglang 0.5.23
`srt/speculative/dflash_utils.py`.
"""

from drafter.layouts.base import FACTS, Layout

NESTED = ("mask_token_id", "target_layer_ids")

CANONICAL = Layout(
    name="canonical",
    fixed={
        "architectures": ["DFlashDraftModel"],
        "model_type": "qwen3",
        "dflash_config.causal": False,
        "dflash_config.sample_from_anchor": False,
    },
    places={fact: f"dflash_config.{fact}" if fact in NESTED else fact for fact in FACTS},
)
