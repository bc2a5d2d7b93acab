"""The exact command that serves an export, for each engine."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

READS = {"vLLM": ("canonical", "speculators"), "SGLang": ("canonical",), "transformers": ("transformers",)}


def serve_commands(directory: str, layout: str, facts: Mapping[str, Any], verifier: str) -> dict[str, str]:
    """Engine → command. Where an engine does not read the export's layout, the first line converts it.

    Args:
        directory: where the export is, or its name on the hub.
        verifier: as the engine should load it.
    """
    commands = {}
    for engine, layouts in READS.items():
        lines, where, has = [], directory, layout
        if layout not in layouts:
            has, where = layouts[0], f"{directory.rstrip('/')}-{layouts[0]}"
            lines = [f"drafter export {shlex.quote(directory)} {shlex.quote(where)} --layout {has}"]
            if engine == "transformers":
                lines[0] = f"# {lines[0]}"
        commands[engine] = "\n".join([*lines, *_MAKERS[engine](where, has, facts["block_size"], verifier)])
    return commands


def _vllm(directory: str, layout: str, block_size: int, verifier: str) -> list[str]:
    if layout == "speculators":  # names its verifier itself
        return [f"vllm serve {shlex.quote(directory)}"]
    said = json.dumps({"method": "dflash", "model": directory, "num_speculative_tokens": block_size - 1})
    return [f"vllm serve {shlex.quote(verifier)} --speculative-config {shlex.quote(said)}"]


def _sglang(directory: str, layout: str, block_size: int, verifier: str) -> list[str]:
    return [
        f"python -m sglang.launch_server --model-path {shlex.quote(verifier)} --speculative-algorithm DFLASH "
        f"--speculative-draft-model-path {shlex.quote(directory)} --speculative-num-draft-tokens {block_size}"
    ]


def _transformers(directory: str, layout: str, block_size: int, verifier: str) -> list[str]:
    of, drafter = json.dumps(verifier), json.dumps(directory)
    return [
        "from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer",
        f"verifier = AutoModelForCausalLM.from_pretrained({of})",
        f"drafter = AutoModel.from_pretrained({drafter}, dtype=verifier.dtype)",
        f'inputs = AutoTokenizer.from_pretrained({of})("def fibonacci(n):", return_tensors="pt")',
        'verifier.generate(**inputs, assistant_model=drafter, speculation_type="dflash", max_new_tokens=128)',
    ]


_MAKERS = {"vLLM": _vllm, "SGLang": _sglang, "transformers": _transformers}
