"""Memory of a loader that streams answers from disk.

    python benchmarks/stream_memory.py [--gigabytes 5] [--buffer 2048] [--limit 1.0] [--folder DIR] [--json FILE]

Random answers are written in shards, as `regenerate` writes them; then a process of its own reads an epoch of them
as a training run's loader does: chat template, cut, shuffle buffer, packing, batches. Its largest resident memory is
read from the system; the exit status is 1 where it is above the limit.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet

from drafter.files import write_json

TOKENS, SHARD, VOCABULARY, LENGTH = 2000, 4096, 32_000, 2048


def write(folder: Path, gigabytes: float) -> int:
    """Shards of answers of some `TOKENS` random tokens, of that size in all; returns their rows."""
    from drafter.answers import SCHEMA

    draw, size, rows, shard = numpy.random.default_rng(0), 0, 0, 0
    while size < gigabytes * 1e9:
        lengths = draw.integers(TOKENS // 2, TOKENS * 3 // 2, SHARD)
        ids = draw.integers(300, VOCABULARY, int(lengths.sum()), dtype=numpy.int32)
        offsets = numpy.concatenate([[0], lengths.cumsum()]).astype(numpy.int32)
        columns = {
            "source": pyarrow.array([f"{rows + row}.md" for row in range(SHARD)]),
            "kind": pyarrow.array(["made up"] * SHARD),
            "prompt": pyarrow.array([f"What is behind door {rows + row}?" for row in range(SHARD)]),
            "messages": pyarrow.nulls(SHARD, pyarrow.string()),
            "tools": pyarrow.nulls(SHARD, pyarrow.string()),
            "answer_ids": pyarrow.ListArray.from_arrays(offsets, ids),
            "stop": pyarrow.array(["stop"] * SHARD),
        }
        path = folder / f"shard-{shard:05d}.parquet"
        table = pyarrow.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA)
        pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
        size, rows, shard = size + path.stat().st_size, rows + SHARD, shard + 1
    return rows


def read(folder: Path, buffer: int) -> None:
    """An epoch of batches; prints what was seen, and this process's largest resident memory, as JSON."""
    import torch

    from drafter.config import AlignmentConfig, DataConfig, DrafterSettings, TrainingConfig, VerifierConfig
    from drafter.data.rows import RowMaker
    from drafter.data.stream import Stream
    from drafter.training.batches import StreamSteps
    from drafter.verifier.tiny import build

    torch.set_num_threads(1)
    files = sorted(folder.glob("*.parquet"))
    settings = DataConfig(
        answers=str(folder), taps="online", streaming=True, packing=True, shuffle_buffer=buffer, sequence_length=LENGTH
    )
    config = AlignmentConfig(
        name="memory",
        verifier=VerifierConfig(source="tiny-llama"),
        data=settings,
        drafter=DrafterSettings(mask_token_id=2),
        training=TrainingConfig(validate_every=100),
    )
    make = RowMaker(build("llama")[1], True, VOCABULARY, LENGTH)
    tokens = batches = 0
    begin = time.perf_counter()
    for batch in StreamSteps(Stream(files, [None] * len(files), 0), make, config):
        if batch.place[1]:  # the second epoch
            break
        batches += 1
        assert batch.rows.documents is not None  # rows are packed
        tokens += int(torch.count_nonzero(batch.rows.documents >= 0))
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    seconds = time.perf_counter() - begin
    print(json.dumps({"batches": batches, "tokens": tokens, "seconds": seconds, "peak_gigabytes": peak / 1e9}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of the shards on disk")
    parser.add_argument("--buffer", type=int, default=2048, help="data.shuffle_buffer")
    parser.add_argument("--limit", type=float, default=1.0, help="GB resident")
    parser.add_argument("--folder", type=Path, help="where to write (a temporary folder by default)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # the process of its own
    options = parser.parse_args()
    if options.read:
        read(options.read, options.buffer)
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        rows = write(Path(folder), options.gigabytes)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e9
        command = [sys.executable, __file__, "--read", folder, "--buffer", str(options.buffer)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found |= {"rows": rows, "gigabytes": size, "rows_per_second": rows / found["seconds"]}
    print("| on disk | rows | tokens read | rows per second | largest resident memory |\n|---|---|---|---|---|")
    print(
        f"| {size:.2f} GB | {rows} | {found['tokens']} | {found['rows_per_second']:.0f} | "
        f"{found['peak_gigabytes']:.2f} GB |"
    )
    if options.json:
        write_json(options.json, found)
    return int(found["peak_gigabytes"] > options.limit)


if __name__ == "__main__":
    sys.exit(main())
