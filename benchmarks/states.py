"""Training from files of hidden states at the width of a large verifier: rows a second, memory over the run.

    python benchmarks/states.py [--width 4096] [--rows 96] [--tokens 128] [--steps 48] [--folder DIR] [--json FILE]

Files of random states are written as vLLM writes them: 5 layers, bfloat16, one for each row. Then a drafter of a layer
trains on them, each step reading its batch first, as a run with `data.taps: files` does. Said are rows a second of the
reader alone and of the run, the reader's share of a step of this width and of the quickstart's, and resident memory
at the first, the second and the last third of the run.
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from drafter.blocks import sample_anchors, slot_ids, slot_labels
from drafter.config.tap_files import TapFilesConfig
from drafter.data.rows import Row, pad
from drafter.files import write_json
from drafter.machine.memory import keep_freed_memory
from drafter.models import BlockDiffusionDrafter
from drafter.models.block_config import config_for
from drafter.taps import StateFiles, TapsElsewhere
from drafter.verifier import VerifierHead
from losses import score_slots

LAYERS, VOCABULARY, BLOCK, ANCHORS, BATCH = [1, 9, 17, 25, 33], 4096, 4, 32, 4
QUICKSTART = 576  # width of its verifier


def head(width: int) -> VerifierHead:
    """A verifier of that width without layers, random."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=0,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    found = VerifierHead(model)
    found.num_layers = 36
    return found


def write(folder: Path, width: int, rows: int, tokens: int) -> list[Row]:
    """Rows, and a file of hidden states for each."""
    generator, made = torch.Generator().manual_seed(0), []
    folder.mkdir(parents=True)
    for number in range(rows):
        ids = torch.randint(10, VOCABULARY, (tokens,), generator=generator)
        states = torch.randn(tokens, len(LAYERS), width, generator=generator).bfloat16()
        save_file({"hidden_states": states, "token_ids": ids}, folder / f"cmpl-{number}.safetensors")
        made.append(Row(ids.tolist(), ((tokens // 4, tokens),), f"{number}"))
    return made


def train(folder: Path, width: int, rows: int, tokens: int, steps: int) -> dict:
    """Read and train by turns."""
    written = write(folder, width, rows, tokens)
    verifier = head(width)
    shape = config_for(verifier, num_layers=1, block_size=BLOCK, tap_layers=LAYERS, mask_token_id=1)
    drafter = BlockDiffusionDrafter(shape)
    optimizer = torch.optim.AdamW(drafter.parameters(), lr=1e-4, fused=True)
    states = StateFiles(TapFilesConfig(path=str(folder)), LAYERS, width)
    taps = TapsElsewhere(states, verifier, written, LAYERS, dtype=torch.bfloat16)
    reads, works, memory = [], [], []
    for step in range(steps):
        chosen = [(step * BATCH + each) % rows for each in range(BATCH)]
        batch = pad([written[index] for index in chosen])
        began = time.perf_counter()
        found = taps(batch, [[index] for index in chosen])
        read = time.perf_counter()
        learn(drafter, verifier, optimizer, batch, found)
        reads.append(read - began)
        works.append(time.perf_counter() - read)
        memory.append(resident())
    third = len(memory) // 3
    read, work = statistics.median(reads[1:]), statistics.median(works[1:])
    return {
        "width": width,
        "megabytes_per_row": tokens * len(LAYERS) * width * 2 / 1e6,
        "rows_per_second_reader": BATCH / read,
        "rows_per_second_run": BATCH / (read + work),
        "reader_share": read / (read + work),
        "gigabytes_by_third": [round(max(memory[at : at + third]), 3) for at in (third // 2, third, 2 * third)],
        "gigabytes_at_most": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def learn(drafter, verifier, optimizer, batch, taps) -> None:
    """One step in bfloat16, as a run takes it."""
    draws = torch.rand(batch.ids.shape, dtype=torch.float64)
    anchors, used = sample_anchors(batch.supervised, ANCHORS, draws)
    labels, valid = slot_labels(batch.ids, batch.supervised, anchors, used, BLOCK)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = drafter(verifier.embed(slot_ids(batch.ids, anchors, BLOCK, 1)), taps, anchors)[:, :, 1:]
        nll, _ = score_slots(hidden[valid], verifier.head, labels[valid], 256)
    nll.mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def resident() -> float:
    """This process's memory now, GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--folder", type=Path, help="where files are written; default: a temporary one")
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=parsed.folder) as made:
        found = [
            train(Path(made) / str(width), width, parsed.rows, parsed.tokens, parsed.steps)
            for width in (QUICKSTART, parsed.width)
        ]
    for one in found:
        print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in one.items()}))
    if parsed.json:
        write_json(parsed.json, {"runs": found, "settings": {name: str(value) for name, value in vars(parsed).items()}})


if __name__ == "__main__":
    main()
