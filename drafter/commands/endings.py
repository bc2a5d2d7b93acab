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
    found = []
    if "tokens_per_cycle" in summary:
        found.append(f"{summary['tokens_per_cycle']:.3f} tokens per cycle on held-out rows")
    if "tokens_per_cycle_untrained" in summary:
        found.append(f"{summary['tokens_per_cycle_untrained']:.3f} before training")
    if "speedup" in summary:
        found.append(f"{summary['speedup']:.2f} x the speed of plain decoding")
    if "greedy_mismatches" in summary:
        found.append(f"{summary['greedy_mismatches']} greedy tokens that differ")
    reason = summary.get("not_decoded")
    if reason:
        found.append(f"nothing decoded ({reason})")
    if "perplexity_held_out" in summary:
        found.append(f"perplexity {summary['perplexity_held_out']:.1f} on held-out text")
    if "stages" in summary:
        found.append(f"{summary['stages'][-1]['tokens_per_pass']} tokens per pass")
    export = directory / "export"
    files = [
        "summary.json",
        "metrics.csv",
        "curves.png",
        "accepted_per_slot.png",
        "stages.csv",
        "writing.csv",
        "speed.csv",
    ]
    files += ["frontier.csv", "frontier.png", "head", "stages", "checkpoints", "export"]
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
    came_out = "\n".join([f"{directory.name}: {', '.join(found) or 'finished'}", *of_limits(summary.get("limits", {}))])
    return ending(came_out, [directory / name for name in files], after if export.is_dir() else [])


def of_limits(limits: dict[str, int]) -> list[str]:
    """What limits took of the rows, in words; nothing where they took nothing."""
    length, rows = f"data.sequence_length={limits.get('limit')}", limits.get("looked_at")
    said = {
        "left_out": f"of {rows} rows have no room for their answer in {length} and are left out",
        "cut": f"of {rows} rows lose a part of their answer to {length}",
        "beyond_max_rows": "training rows are beyond data.max_rows",
    }
    return [f"{limits[name]} {words}" for name, words in said.items() if limits.get(name)]
