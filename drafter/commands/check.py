"""An export → whether engines would serve it as it was trained; the command that serves it. Exit code 1 if not."""

from argparse import ArgumentParser, Namespace
from pathlib import Path


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("export", metavar="EXPORT", help="directory that `export` wrote, or any drafter's")
    parser.add_argument("--verifier", required=True, help="hub id, directory, GGUF file or packaged name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here too")
    parser.add_argument("--static", action="store_true", help="read only: load and decode nothing")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.15,
        help="share of the gain over plain decoding that may differ from training; default: 0.15",
    )
    parser.add_argument("--device", default="cpu", help="where to decode: cpu, cuda, auto; default: cpu")
    parser.add_argument(
        "--verifier-dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of its weights; default: float32",
    )


def run(parsed: Namespace) -> None:
    from drafter.check import check
    from drafter.files import write_json
    from drafter.machine.devices import choose_device

    if not 0 <= parsed.tolerance < 1:
        raise ValueError(f"tolerance={parsed.tolerance}: must lie in [0, 1)")
    report = check(
        parsed.export,
        parsed.verifier,
        dynamic=not parsed.static,
        tolerance=parsed.tolerance,
        device=choose_device(parsed.device),
        verifier_dtype=parsed.verifier_dtype,
    )
    print(report)
    if parsed.json:
        write_json(parsed.json, report.as_dict())
    if not report.ok:
        raise SystemExit(1)
