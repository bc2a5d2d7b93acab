"""One optimisation step side by side: ours, ours in the plain way, and the trainers of others, on identical tensors.

    python benchmarks/training.py --out DIR [--peer specforge PYTHON] [--peer speculators PYTHON] [--rounds 3]

Each contestant is a process of its own that stays, and they take turns; of a round's seconds the ratio to ours is
taken, and of the ratios the median. A step is forward, backward and AdamW, with random weights and decaying
cross-entropy. Memory is what a step holds at its peak above what stood before it. `PYTHON` is the interpreter of a
peer's own environment; a peer without one is left out by name. Then our step alone over anchors, length and block size.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from safetensors.torch import save_file

from drafter.blocks import sample_anchors
from drafter.evaluation.report import Picture
from drafter.files import write_json
from drafter.models import BlockDiffusionDrafter

STEPS = Path(__file__).parent / "steps"
PEERS = ("specforge", "speculators")
MIB = 2**20
CURVES: dict[str, tuple[int, ...]] = {
    "anchors": (64, 128, 256, 512, 1024),
    "length": (512, 1024, 2048, 4096, 8192),
    "block_size": (4, 8, 16, 32),
}


def problem(options: argparse.Namespace, **changed: int) -> dict[str, Any]:
    """What a step is about, the sizes of all tensors among it."""
    width, heads = options.width, options.width // 64
    shape = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": options.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "head_dim": 64,
        "vocab_size": options.vocabulary,
    }
    chosen = {name: changed.get(name, getattr(options, name)) for name in CURVES}
    return (
        shape
        | chosen
        | {
            "shape": list(shape),
            "decay": 7.0,
            "chunk_size": 256,
            "mask_token_id": 0,
            "target_layer_ids": [1, 3, 5],
            "num_target_layers": 8,
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6,
            "device": options.device,
            "precision": options.precision,
            "threads": options.threads,
        }
    )


def lay_down(folder: Path, settings: dict[str, Any]) -> str:
    """Settings and tensors of a step, for every contestant; returns the folder."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    length, width, size = settings["length"], settings["hidden_size"], settings["block_size"]
    ids = torch.randint(1, settings["vocab_size"], (1, length))
    answer = (torch.arange(length) >= length // 16)[None]
    inside = answer & (torch.arange(length) < length - size)  # where every trainer takes anchors
    anchors, _ = sample_anchors(inside, settings["anchors"], torch.rand(1, length))
    head = torch.randn(settings["vocab_size"], width) / width**0.5
    tensors = {
        "ids": ids,
        "supervised": answer.to(torch.uint8),
        "anchors": anchors,
        "taps": torch.randn(1, length, len(settings["target_layer_ids"]) * width),
        "states": head[ids.roll(-1, 1)],
        "embedding": torch.randn(settings["vocab_size"], width) * 0.02,
        "head": head,
    }
    shapes = BlockDiffusionDrafter.shapes(settings)
    weights = {name: torch.ones(one) if len(one) == 1 else 0.02 * torch.randn(one) for name, one in shapes.items()}
    save_file(tensors | {f"drafter.{name}": one for name, one in weights.items()}, folder / "tensors.safetensors")
    settings["anchors"] = anchors.shape[1]
    write_json(folder / "settings.json", settings)
    return str(folder)


class Contestant:
    """A process that takes a step whenever it is asked to."""

    def __init__(self, python: str, script: str, *words: str):
        root = Path(__file__).parents[1]
        environment = os.environ | ({"PYTHONPATH": str(root)} if python == sys.executable else {"PYTHONPATH": ""})
        command = [python, str(STEPS / script), *words]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        self.process = subprocess.Popen(command, **pipes)

    def step(self, folder: str) -> dict[str, float]:
        """Seconds, processor's seconds, loss and peak bytes of one step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(folder + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:  # libraries talk, too
            if line.startswith("turn "):
                return json.loads(line.removeprefix("turn "))
        raise RuntimeError(f"{' '.join(map(str, self.process.args))}: ended without a step; its reason stands above")  # type: ignore[arg-type]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def side_by_side(contestants: dict[str, Contestant], folder: str, rounds: int) -> list[dict[str, Any]]:
    """A row each: medians, and medians of ratios to ours within a round."""
    for one in contestants.values():
        one.step(folder)  # loads what the first step loads
    turns = [{name: one.step(folder) for name, one in contestants.items()} for _ in range(rounds)]
    ours = next(iter(contestants))

    def middle(name: str, field: str) -> float:
        return statistics.median(each[name][field] for each in turns)

    def ratio(name: str, field: str) -> float:
        return statistics.median(each[name][field] / each[ours][field] for each in turns)

    return [
        {
            "way": name,
            "seconds": middle(name, "seconds"),
            "time_ratio": ratio(name, "seconds"),
            "processor_ratio": ratio(name, "processor"),
            "peak_mib": middle(name, "peak") / MIB,
            "peak_ratio": ratio(name, "peak"),
            "loss": turns[0][name]["loss"],
        }
        for name in contestants
    ]


def curves(ours: Contestant, options: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Our step over one size at a time, the others as they are."""
    found: dict[str, list[dict[str, float]]] = {}
    for name, values in CURVES.items():
        found[name] = []
        for value in values:
            if name == "anchors" and value > options.length * 3 // 4:
                continue
            at = lay_down(folder / f"{name}-{value}", problem(options, **({"anchors": 128} | {name: value})))
            ours.step(at)
            turns = [ours.step(at) for _ in range(options.rounds)]
            row = {
                field: statistics.median(each[field] for each in turns) for field in ("seconds", "processor", "peak")
            }
            found[name].append({name: value} | row)
    return found


def tell(rows: list[dict[str, Any]]) -> None:
    print("| way | seconds | times ours | processor, times ours | peak MiB | times ours | loss |")
    print("|" + 7 * "---|")
    for row in rows:
        cells = [f"{row[name]:.3g}" for name in row if name not in ("way", "loss")]
        print(f"| {row['way']} | {' | '.join(cells)} | {row['loss']:.4f} |", flush=True)


def tell_curves(over: dict[str, list[dict[str, float]]]) -> None:
    for name, points in over.items():
        print(f"\n| {name.replace('_', ' ')} | processor seconds | peak MiB |\n|---|---|---|")
        for point in points:
            print(f"| {point[name]} | {point['processor']:.3g} | {point['peak'] / MIB:.0f} |")


def picture(rows: list[dict[str, Any]], over: dict[str, list[dict[str, float]]]) -> Picture:
    """Time and memory of each way over ours, and what a step costs over sizes."""

    def ratios(axes: Axes) -> None:
        for at, (field, label) in enumerate((("time_ratio", "time"), ("peak_ratio", "peak memory"))):
            places = [place + 0.4 * at for place in range(len(rows))]
            axes.barh(places, [row[field] for row in rows], 0.38, alpha=0.7, label=label)
        axes.set(yticks=range(len(rows)), yticklabels=[row["way"] for row in rows], xlabel="times ours")
        axes.legend(fontsize=8)

    def curve(name: str, points: list[dict[str, float]], axes: Axes) -> None:
        axes.plot([one[name] for one in points], [one["processor"] for one in points], "o-")
        axes.set(xlabel=name.replace("_", " "), ylabel="processor seconds a step", xlim=(0, None), ylim=(0, None))

    text = "times ours, and the cost over anchors, length and block size"
    return Picture("training", text, [ratios, *(partial(curve, *one) for one in over.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "PYTHON"))
    parser.add_argument("--anchors", type=int, default=512)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 128: heads are 64 wide, two to a key")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-curves", action="store_true")
    options = parser.parse_args()
    peers = {name: python for name, python in options.peer if name in PEERS and Path(python).exists()}
    for name in PEERS:
        if name not in peers:
            print(f"{name}: left out, no environment of it; say --peer {name} PYTHON")
    ways = ("split", "plain") if options.device == "cpu" else ("split", "flex", "plain")
    contestants = {way: Contestant(sys.executable, "ours.py", way) for way in ways}
    contestants |= {name: Contestant(python, f"of_{name}.py") for name, python in peers.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = problem(options)
        rows = side_by_side(contestants, lay_down(Path(folder, "step"), settings), options.rounds)
        machine = {"device": options.device, "threads": options.threads, "torch": torch.__version__}
        figures = {"settings": settings, **machine, "rounds": options.rounds, "step": rows, "over": {}}
        write_json(options.out / "training.json", figures)
        tell(rows)
        over = {} if options.no_curves else curves(contestants["split"], options, Path(folder))
    for one in contestants.values():
        one.close()
    tell_curves(over)
    write_json(options.out / "training.json", figures | {"over": over})
    picture(rows, over).save(options.out)


if __name__ == "__main__":
    main()
