"""Drafters that others have published, in small: every field of their `config.json`, narrow shapes, random weights.

Widths are a 64th, head counts and head widths an 8th of theirs; depths, taps and blocks are as they are.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

from drafter.models import BlockDiffusionConfig, BlockDiffusionDrafter
from drafter.verifier import Verifier

VOCABULARY, MASK = 96, 90
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = 32


@dataclass(frozen=True)
class Published:
    """A published drafter: its shape as it is, and what its config says besides."""

    shape: tuple[int, int, int, int, int, int]  # layers, hidden, FFN, heads, kv heads, head_dim
    block: int
    taps: list[int]
    of: int
    theta: float = 1e6
    fields: dict[str, Any] = field(default_factory=dict)
    softcap: float | None = None

    @property
    def sizes(self):
        layers, hidden, inner, heads, kv, width = self.shape
        return {
            "num_hidden_layers": layers,
            "hidden_size": hidden // 64,
            "intermediate_size": inner // 64,
            "num_attention_heads": heads // 8,
            "num_key_value_heads": kv // 8,
            "head_dim": width // 8,
        }

    def config(self):
        """Its `config.json`."""
        return {
            "architectures": ["DFlashDraftModel"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
            "block_size": self.block,
            "dflash_config": {"mask_token_id": MASK, "target_layer_ids": self.taps},
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "layer_types": [FULL] * self.shape[0],
            "max_position_embeddings": 4096,
            "model_type": "qwen3",
            "num_target_layers": self.of,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": self.theta,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "use_cache": True,
            "vocab_size": VOCABULARY,
            **self.sizes,
            **self.fields,
        }

    def verifier(self):
        """One that it fits, of its depth."""
        sizes = {
            **{"vocab_size": VOCABULARY, "hidden_size": self.sizes["hidden_size"], "intermediate_size": 16},
            **{"num_hidden_layers": self.of, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8},
            **{"max_position_embeddings": 4096, "initializer_range": 0.2, "eos_token_id": 0, "pad_token_id": 0},
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.softcap:
                cap = {"final_logit_softcapping": self.softcap, "sliding_window": WINDOW}
                return Verifier(Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **cap)))
            return Verifier(Qwen3ForCausalLM(Qwen3Config(**sizes)))

    def publish(self, directory, tensors=lambda found: found, **changes):
        """Write it as its authors did; returns the config and the tensors."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            shape = BlockDiffusionConfig(**self.sizes, dflash_config={"target_layer_ids": self.taps})
            drafter = BlockDiffusionDrafter(shape)
            weights = {
                name: ((1 if "norm" in name else 0) + 0.15 * torch.randn(weight.shape)).bfloat16()
                for name, weight in drafter.state_dict().items()
            }
        config = {key: value for key, value in (self.config() | changes).items() if value is not ...}
        directory.mkdir(parents=True)
        save_file(tensors(weights), directory / "model.safetensors")
        (directory / "config.json").write_text(json.dumps(config))
        return config, weights


MIXED = {
    "layer_types": [SLIDING] * 4 + [FULL],
    "sliding_window": WINDOW,
    "use_sliding_window": True,
    "max_window_layers": 5,
}
GPT_OSS_YARN = {
    **{"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    "original_max_position_embeddings": 4096,
}
KIMI_YARN = {
    **{"type": "yarn", "factor": 64.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "original_max_position_embeddings": 4096,
}

DRAFTERS = {
    "Qwen3-4B-DFlash-b16": Published(
        (5, 2560, 9728, 32, 8, 128), 16, [1, 9, 17, 25, 33], 36, fields={"tie_word_embeddings": True}
    ),
    "Qwen3-8B-DFlash-b16": Published((5, 4096, 12288, 32, 8, 128), 16, [1, 9, 17, 25, 33], 36),
    "LLaMA3.1-8B-Instruct-DFlash-UltraChat": Published(
        (5, 4096, 12288, 32, 8, 128), 10, [1, 8, 15, 22, 29], 32, theta=5e5
    ),
    "gpt-oss-20b-DFlash": Published(
        (8, 2880, 7680, 64, 8, 64), 8, [1, 6, 11, 16, 21], 24, theta=150000, fields={"rope_scaling": GPT_OSS_YARN}
    ),
    "Kimi-K2.5-DFlash": Published(
        (6, 7168, 18432, 64, 8, 128), 8, [1, 12, 24, 35, 47, 58], 61, theta=5e4, fields={"rope_scaling": KIMI_YARN}
    ),
    "gemma-4-31B-it-DFlash": Published(
        (5, 5376, 10752, 64, 8, 128),
        16,
        [1, 12, 23, 35, 46, 57],
        60,
        fields=MIXED | {"final_logit_softcapping": 30.0, "tie_word_embeddings": True},
        softcap=30.0,
    ),
    "Qwen3.6-27B-DFlash": Published((5, 5120, 17408, 32, 8, 128), 16, [1, 16, 31, 46, 61], 64, theta=1e7, fields=MIXED),
}

DFLASH2 = Published(
    (5, 5120, 17408, 32, 8, 128),
    8,
    [5, 19, 33, 47, 61],
    64,
    theta=1e7,
    fields={
        "architectures": ["DFlash2DraftModel"],
        "is_causal": False,
        "layer_types": [SLIDING] * 5,
        "sliding_window": 2048,
        "dflash_config": {
            **{"block_size": 8, "mask_token_id": MASK, "target_layer_ids": [5, 19, 33, 47, 61]},
            **{"conv_kernel_size": 2, "conv_group_size": 16, "selector_rank": 256, "selector_top_k": 16},
        },
    },
)
