"""How long commands end: what came out, where it lies, what to do next."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def ending(came_out: str, where: Sequence[Path], commands: Sequence[Sequence[str | Path]]) -> str:
    """Lines for the end of a command.

    Args:
        where: files and folders; those that are not there are left out.
        commands: what may come next, as words; words with blanks are quoted.
    """
    there = [f"  {path}{'/' if path.is_dir() else ''}" for path in where if path.exists()]
    after = [f"  drafter {shlex.join(map(str, words))}" for words in commands]
    return "\n".join([came_out, *there, *(["next:", *after] if after else [])])


def run_ending(directory: Path, verifier: str, summary: dict[str, Any], system: str = "alignment") -> str:
    """The end of `train`: the headline of `summary.json`, the run's files, what one does with an export."""
    from drafter.training.report import headline, of_limits

    reason = summary.get("not_decoded")
    export = directory / "export"
    files = ["report.html", "summary.json", "metrics.csv", "stages.csv", "writing.csv", "speed.csv", "frontier.csv"]
    files += ["head", "pair", "stages", "checkpoints", "export"]
    named: list[str | Path] = [export, "--verifier", verifier]
    after: list[list[str | Path]] = [
        ["generate", *named, "--compare", "What does functools.partial do?"],
        ["evaluate", *named, "--suites", "standard_library", "--out", directory / "evaluation"],
        ["check", *named],
    ]
    if reason:
        served = ["--suites", "PROMPTS.jsonl", "--by", "engine", "--engine", "http://HOST:8000/v1"]
        after = [["check", *named, "--static"], ["evaluate", *named, *served]]
    if system == "language_model":
        after = [["generate", "--verifier", export, "--plain", "--raw", "Return the"]]
    elif system == "distillation":
        after = [["generate", export, "Return the"]]
    elif system == "ensemble":
        export, rule = directory / "pair/export", f"dynamic_ensemble:head={directory / 'head'}"
        named = [export, "--verifier", verifier, "--rule", rule]
        asked = summary["asked"]
        after = [["generate", *named, "--temperature", f"{asked['temperature']:g}", asked["prompt"]]]
    found = [f"{directory.name}: {headline(summary) or 'finished'}", *of_limits(summary.get("limits", {}))]
    return ending("\n".join(found), [directory / name for name in files], after if export.is_dir() else [])
