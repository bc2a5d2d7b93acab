# ruff: noqa: E402 (the platform is set before anything else of vLLM is imported)
"""vLLM's own configuration stage, on a CPU, over a verifier and an export: what it makes of our `config.json`.

Setup, once, in an environment of its own (about 2.8 GB, no CUDA build):

    python -m venv /tmp/vllm && /tmp/vllm/bin/pip install torch==2.13.0 setuptools setuptools_scm setuptools_rust wheel
    VLLM_VERSION_OVERRIDE=0.33.0 VLLM_TARGET_DEVICE=empty /tmp/vllm/bin/pip download --no-deps --no-build-isolation \
        --no-binary vllm vllm==0.33.0
    tar xzf vllm-0.33.0.tar.gz && /tmp/vllm/bin/pip install torch==2.13.0 -r vllm-0.33.0/requirements/common.txt

Run: PYTHONPATH=vllm-0.33.0 /tmp/vllm/bin/python integration/vllm_config.py EXPORT VERIFIER

Covers: ModelConfig of the verifier, SpeculativeConfig of the drafter, the mask id, the aux layers, causality of each
layer, the draft length, which files it would read as weights. Does not cover: reading them (needs compiled kernels),
the attention backends, decoding.
"""

import json
import sys
from pathlib import Path

import torch
import transformers
import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()

from vllm.config import LoadConfig, ModelConfig, ParallelConfig, SpeculativeConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.qwen3_dflash import _dflash_layer_causal
from vllm.v1.worker.gpu.spec_decode.eagle.eagle3_utils import get_eagle3_aux_layers_from_config
from vllm.v1.worker.gpu.spec_decode.utils import get_parallel_drafting_token_id

MIXED = "sliding layers alone"


def expected(export: Path) -> dict:
    """What the export says, in vLLM's words."""
    config = json.loads((export / "config.json").read_text())
    inner = config.get("dflash_config") or config
    taps = inner.get("target_layer_ids")
    aux = config["aux_hidden_state_layer_ids"] if taps is None else [tap + 1 for tap in taps]
    return {"mask id": inner["mask_token_id"], "aux layers": aux, "drafts": config["block_size"] - 1}


def main(export: str, verifier: str) -> int:
    said = expected(Path(export))
    target = ModelConfig(verifier, dtype="bfloat16")
    speculative = SpeculativeConfig(
        method="dflash",
        model=export,
        num_speculative_tokens=said["drafts"],
        target_model_config=target,
        target_parallel_config=ParallelConfig(),
    )
    draft = speculative.draft_model_config
    config = draft.hf_config
    nested = getattr(config, "dflash_config", None) or {}
    read = {
        "mask id": get_parallel_drafting_token_id(config),
        "aux layers": list(get_eagle3_aux_layers_from_config(speculative) or []),
        "drafts": speculative.num_speculative_tokens,
    }
    print(f"vllm {vllm.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"export {export}")
    print(f"architecture {draft.architectures}, method {speculative.method}")
    print(f"layer types {config.layer_types}, is_causal {getattr(config, 'is_causal', None)}, nested {nested}")
    print(f"rope {config.rope_parameters}, positions {draft.max_model_len}, vocabulary {config.vocab_size}")
    wrong = [name for name in said if said[name] != read[name]]
    for name, value in said.items():
        print(f"{name}: export {value}, vLLM {read[name]}{'  WRONG' if name in wrong else ''}")
    causal = [_dflash_layer_causal(config, layer) for layer in range(config.num_hidden_layers)]
    meant = causality(Path(export), config.layer_types)
    print(f"causal in the block: export {meant}, vLLM {causal}{'' if meant == causal else '  WRONG'}")
    files = weight_files(export)
    stray = [name for name in files if not name.startswith("model")]
    print(f"weights: {files}{'  WRONG' if stray else ''}")
    return 1 if wrong or meant != causal or stray else 0


def causality(export: Path, kinds: list[str]) -> list[bool]:
    """What the export means, layer by layer."""
    config = json.loads((export / "config.json").read_text())
    said = config.get("is_causal", MIXED)
    if "sliding_window_non_causal" in config:
        said = not config["sliding_window_non_causal"]
    return [kind == "sliding_attention" if said == MIXED else said for kind in kinds]


def weight_files(export: str) -> list[str]:
    """Every safetensors file that vLLM would take for weights: without an index, all of the directory."""
    loader = DefaultModelLoader(LoadConfig(load_format="safetensors"))
    return [Path(file).name for file in loader._prepare_weights(export, None, None, False, None)[1]]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
