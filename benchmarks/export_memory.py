"""Memory of exporting and checking a large random drafter: `python benchmarks/export_memory.py [--json FILE]`.

A drafter of about 1 B parameters (width 4096, 5 layers, random weights) is written as a training checkpoint in float32.
Each step then runs in a process of its own; its peak resident memory, mapped files included, stands beside the size of
what it handles: the checkpoint for the export, the export for converting and for the static check, the drafter in
float32 for the dynamic check, which decodes in float32.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drafter.files import write_json

WIDTH, LAYERS, TAPS, BLOCK = 4096, 5, 5, 8
SIZES = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288}
LIMIT = 1.5


def make(folder: Path) -> None:
    """A verifier of the same width with hardly anything in it, and the checkpoint of a random drafter."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from drafter.models import BlockDiffusionDrafter
    from drafter.models.block_config import config_for
    from drafter.models.storage import facts_of
    from drafter.verifier import Verifier, tiny

    _, tokenizer = tiny.build("qwen3")
    small = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64}
    config = Qwen3Config(
        vocab_size=288,
        hidden_size=WIDTH,
        num_hidden_layers=8,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
        **small,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder / "verifier")
    tokenizer.save_pretrained(folder / "verifier")
    verifier = Verifier(model, tokenizer)
    shape = config_for(verifier, num_layers=LAYERS, block_size=BLOCK, tap_layers=[1, 2, 3, 4, 5], mask_token_id=2)
    for name, value in SIZES.items():
        setattr(shape, name, value)
    drafter = BlockDiffusionDrafter(shape)
    about = {"facts": facts_of(shape, torch.float32), "vocabulary": None, "verifier": verifier.fingerprint()}
    state = {f"drafter.{name}": value for name, value in drafter.state_dict().items()}
    moments = {index: {"exp_avg": torch.zeros(1)} for index in range(3)}  # what else a checkpoint holds
    torch.save(
        {
            "state_dict": state,
            "drafter": about,
            "global_step": 1,
            "hyper_parameters": {"name": "large", "verifier": {"source": str(folder / "verifier")}},
            "optimizer_states": [{"state": moments}],
        },
        folder / "large.ckpt",
    )


STEPS = {
    "make": ([], ""),
    "import torch and transformers": (["-c", "import torch, transformers, drafter.models"], ""),
    "export CHECKPOINT (float32) to bfloat16": (["export", "large.ckpt", "canonical"], "large.ckpt"),
    "export to the transformers layout": (["export", "canonical", "native", "--layout", "transformers"], "canonical"),
    "check --static": (["check", "canonical", "--verifier", "verifier", "--static"], "canonical"),
    "check, decoding in float32": (["check", "canonical", "--verifier", "verifier"], "large.ckpt"),
}


def run(folder: Path, name: str) -> dict:
    """One step in a process of its own."""
    words, handled = STEPS[name]
    command = [sys.executable, __file__, "--make", "."] if name == "make" else [sys.executable, *words]
    if words and words[0] != "-c":
        command = [sys.executable, "-m", "drafter", *words]
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024); sys.exit(code)"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measure, *command], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    peak = int(next(line for line in done.stdout.splitlines() if line.startswith("peak ")).split()[1])
    size = 0
    if handled:
        path = folder / handled
        size = sum(file.stat().st_size for file in path.glob("*.safetensors")) if path.is_dir() else path.stat().st_size
    return {"step": name, "seconds": time.perf_counter() - began, "peak": peak, "size": size, "of": handled}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.make:
        make(parsed.make)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="export-memory-"))
    try:
        found = [run(folder, name) for name in STEPS]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{'step':<42}{'seconds':>9}{'peak GB':>9}{'size GB':>9}{'ratio':>7}")
    for one in found:
        ratio = f"{one['peak'] / one['size']:.2f}" if one["size"] else ""
        size = f"{one['size'] / 1e9:.2f}" if one["size"] else ""
        print(f"{one['step']:<42}{one['seconds']:>9.1f}{one['peak'] / 1e9:>9.2f}{size:>9}{ratio:>7}")
    if parsed.json:
        write_json(parsed.json, found)
    return 0 if all(one["peak"] <= LIMIT * one["size"] for one in found if one["size"]) else 1


if __name__ == "__main__":
    sys.exit(main())
