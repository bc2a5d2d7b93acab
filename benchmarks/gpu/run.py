"""Run one stage of the GPU kit within its minutes; the same command goes on where it stopped.

    python benchmarks/gpu/run.py STAGE --out DIR --minutes M [--kit DIR] [--own key=value ...]

Files of the kit are put together and checked, its wheels installed into a folder of their own, nothing else touched.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from stages import STAGES, Step

ROOT = Path(__file__).parents[2]
SITE = "site"


def unpack(kit: Path) -> dict[str, str]:
    """Put the kit's files together and install its wheels; returns what the environment gains.

    Raises:
        SystemExit: a piece is missing, or a file is not the one that was packed.
    """
    manifest = json.loads((kit / "part-1" / "manifest.json").read_text())
    whole = {name: entry for name, entry in manifest.items() if all((kit / one).is_file() for one in entry["pieces"])}
    for name, entry in whole.items():
        path = kit / "files" / name
        if not path.is_file():
            data = b"".join((kit / one).read_bytes() for one in entry["pieces"])
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                sys.exit(f"{name}: is not the file that was packed; carry {', '.join(entry['pieces'])} again")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if missing := sorted(set(manifest) - set(whole)):
        print(f"not here yet: {', '.join(missing)}", flush=True)
    wheels = [path for path in sorted((kit / "files" / "wheels").glob("*.whl")) if not _installed(kit, path)]
    if wheels:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--upgrade", "--target", str(kit / SITE), *map(str, wheels)], check=True)
    return {"PYTHONPATH": f"{ROOT}:{(kit / SITE).absolute()}"}


def _installed(kit: Path, wheel: Path) -> bool:
    name, version = wheel.name.split("-")[:2]
    return any((kit / SITE).glob(f"{name}-{version}.dist-info"))


def run_step(step: Step, folder: Path, words: list[str], environment: dict[str, str], seconds: float) -> dict[str, Any]:
    """Run one command, at most so long, its output into a file; returns what became of it."""
    began = time.monotonic()
    hidden = {} if step.device else {"CUDA_VISIBLE_DEVICES": ""}
    log = folder / f"{step.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **environment, **hidden},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = 124
    return {"command": " ".join(words), "code": code, "seconds": round(time.monotonic() - began, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--kit", type=Path)
    parser.add_argument("--own", default="", help="further words for commands that take some")
    parser.add_argument("--only", nargs="*", help="steps to run; all without it")
    parser.add_argument("--python", default=sys.executable, help="what runs Python programs")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    folder = (options.out / options.stage).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    environment = unpack(options.kit) if options.kit else {"PYTHONPATH": str(ROOT)}
    path = folder / "summary.json"
    summary = json.loads(path.read_text()) if path.is_file() else {}
    for step in STAGES[options.stage]:
        if summary.get(step.name, {}).get("code") == 0 or (options.only and step.name not in options.only):
            continue
        filled = step.command.format(out=folder, own=options.own)
        words = [word for one in filled.split() for word in (options.python.split() if one == "python" else [one])]
        summary[step.name] = run_step(step, folder, words, environment, deadline - time.monotonic())
        path.write_text(json.dumps(summary, indent=2) + "\n")
        print(f"{step.name}: {summary[step.name]['code']} after {summary[step.name]['seconds']} s", flush=True)
        if summary[step.name]["code"]:
            log = (folder / f"{step.name}.log").read_text(errors="replace").replace("\r", "\n")
            print("\n".join(log.splitlines()[-12:]), flush=True)
            if step.last:
                break
    return int(any(one["code"] for one in summary.values()))


if __name__ == "__main__":
    sys.exit(main())
