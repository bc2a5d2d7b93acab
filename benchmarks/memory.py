"""Memory of a run against a verifier of about 1 B: `python benchmarks/memory.py [--dtype bfloat16] [--json FILE]`.

A Qwen3 of 1.2 B random weights is written in bfloat16; then `regenerate`, `train`, `export` and `check` run, each in a
process of its own, on a few short prompts. The peak of each one's resident memory, mapped files included, stands beside
what docs/memory.md adds up for it. The exit status is 1 where a peak is more than `LIMIT` times that.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from drafter.files import write_json

WIDTH, DEPTH, VOCABULARY, PROMPTS, LIMIT = 2048, 20, 65_536, 12, 1.25
SIZES = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 5632}
LAYERS, TAPS, OVERHEAD = 2, 5, 0.75e9  # of the drafter; and what a process takes that has torch and transformers
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
RECIPE = """
name: large
output: {folder}
verifier: {{source: {folder}/verifier, device: cpu, dtype: {dtype}}}
data:
  answers: {folder}/answers.parquet
  sources: [{{kind: file, path: "{folder}/prompts.jsonl"}}]
  max_new_tokens: 8
  batch_size: 4
  sequence_length: 128
  validation_share: 0.4
  validation_rows: 2
  test_rows: 2
drafter: {{num_layers: {layers}, block_size: 8, num_taps: {taps}, mask_token_id: 300, start: verifier}}
losses: {{decayed_ce: {{weight: 1.0}}, first_error: {{weight: 0.2}}}}
training: {{max_steps: 2, rows: 2, anchors: 8, precision: {precision}, validate_every: 2}}
decoding: {{prompts: 1, max_new_tokens: 4, draft_length: 4}}
"""


def make(folder: Path, dtype: str) -> None:
    """A random verifier with a tokenizer, prompts, and the recipe."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from drafter.verifier import tiny

    _, tokenizer = tiny.build("qwen3")
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        **SIZES,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    Qwen3ForCausalLM(config).save_pretrained(folder / "verifier")
    tokenizer.save_pretrained(folder / "verifier")
    rows = [json.dumps({"prompt": f"Door {index}?", "source": str(index)}) for index in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    precision = "float32" if dtype == "float32" else "bfloat16"
    shape = {"layers": LAYERS, "taps": TAPS, "dtype": dtype, "precision": precision}
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder, **shape))


def steps(folder: Path, dtype: str) -> dict[str, list[str]]:
    """What is run: the words of each command."""
    export, verifier, recipe = str(folder / "large/export"), str(folder / "verifier"), str(folder / "recipe.yaml")
    return {
        "regenerate": ["regenerate", recipe],
        "train": ["train", recipe],
        "export": ["export", export, str(folder / "out"), "--layout", "speculators", "--verifier", verifier],
        "check": ["check", export, "--verifier", verifier, "--verifier-dtype", dtype],
    }


def expected(name: str, dtype: str) -> float:
    """Bytes by the arithmetic of docs/memory.md."""
    attention = WIDTH * SIZES["head_dim"] * 2 * (SIZES["num_attention_heads"] + SIZES["num_key_value_heads"])
    layer = attention + 3 * WIDTH * SIZES["intermediate_size"]
    head, body = VOCABULARY * WIDTH, DEPTH * layer
    drafter = LAYERS * layer + TAPS * WIDTH**2
    verifier = (2 * head + body) * BYTES[dtype]
    tiles = (head + body) * 2 if dtype == "bfloat16" else 0
    wide = head * 4 if dtype != "float32" else 0  # the walk's head
    mapped = (2 * head + body) * 2 if dtype != "bfloat16" else 0  # its file, while it is read into another dtype
    return (
        OVERHEAD
        + {
            "regenerate": verifier + max(mapped, tiles),
            "train": verifier + max(mapped, tiles + wide + 16 * drafter),
            "export": 0,  # the whole vocabulary is proposed: no row of the head is written
            "check": verifier + max(mapped, tiles + wide + 4 * drafter),
        }[name]
    )


def peak(words: list[str]) -> tuple[float, float]:
    """Largest resident memory of a command, bytes, and its seconds."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "drafter", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"drafter {' '.join(words)}: exit code {process.returncode}")
    return usage.ru_maxrss * 1024.0, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=list(BYTES), default="bfloat16", help="of the verifier")
    parser.add_argument("--folder", type=Path, help="where the models lie meanwhile: 3 GB; default: a temporary one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found, worst = [], 0.0
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(folder, options.dtype))
        maker.start()  # of its own: a child's peak begins at that of the process that starts it
        maker.join()
        if maker.exitcode:
            raise SystemExit(1)
        for name, words in steps(folder, options.dtype).items():
            (largest, seconds), sum_ = peak(words), expected(name, options.dtype)
            found.append({"step": name, "peak_gb": largest / 1e9, "expected_gb": sum_ / 1e9, "seconds": seconds})
            worst = max(worst, largest / sum_)
            print(f"{name:<12}{largest / 1e9:6.2f} GB, added up {sum_ / 1e9:6.2f} GB, {seconds:5.0f} s", flush=True)
    if options.json:
        write_json(options.json, {"dtype": options.dtype, "steps": found})
    if worst > LIMIT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
