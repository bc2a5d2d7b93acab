"""The report of a run: what came out first, how it was made last; each system puts its own in between."""

from collections.abc import Mapping
from typing import Any

from drafter.config import RunConfig, as_yaml
from drafter.evaluation.report import Page
from drafter.export.record import hardware, provenance


def open_page(config: RunConfig, summary: Mapping[str, Any]) -> Page:
    """A page that opens with what the run found."""
    page = Page(f"Run: {config.name}")
    page.lead(f"{headline(summary) or 'Finished'}.")
    for line in of_limits(summary.get("limits", {})):
        page.text(line)
    return page


def close_page(page: Page, config: RunConfig, summary: Mapping[str, Any], device: str) -> None:
    """Every figure of the summary, the recipe and the machine; saved as the run's `report.html`."""
    page.heading("Figures")
    page.table(["figure", "value"], [[name, _shown(value)] for name, value in summary.items() if _plain(value)])
    page.heading("How this was made")
    stages = {f"seconds: {name}": _shown(each) for name, each in summary.get("seconds_by_stage", {}).items()}
    page.table(["fact", "value"], list((provenance() | {"hardware": hardware(device)} | stages).items()))
    page.passage("The recipe, resolved", as_yaml(config))
    page.save_html(config.directory / "report.html")


def headline(summary: Mapping[str, Any]) -> str:
    """What a run found, in a line; empty where its summary holds no such figure."""
    found = []
    if "tokens_per_cycle" in summary:
        rows = "tasks" if "reward" in summary else "rows"
        found.append(f"{summary['tokens_per_cycle']:.3f} tokens per cycle on held-out {rows}")
    if "tokens_per_cycle_untrained" in summary:
        found.append(f"{summary['tokens_per_cycle_untrained']:.3f} before training")
    if "speedup" in summary:
        found.append(f"{summary['speedup']:.2f} x the speed of plain decoding")
    if "greedy_mismatches" in summary:
        found.append(f"{summary['greedy_mismatches']} greedy tokens that differ")
    if summary.get("not_decoded"):
        found.append(f"nothing decoded ({summary['not_decoded']})")
    if "perplexity_held_out" in summary:
        found.append(f"perplexity {summary['perplexity_held_out']:.1f} on held-out text")
    if "reward_over_static" in summary:
        gain = summary["reward_over_static"]
        interval = f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        found.append(f"reward {summary['reward']:.3f}, over static ensembles {interval}")
    if "stages" in summary:
        found.append(f"{summary['stages'][-1]['tokens_per_pass']} tokens per pass")
    free = [one for one in summary.get("speed", ()) if one["way"].startswith("k = ")]
    if free:
        best = max(free, key=lambda one: one["speedup"])
        found.append(f"{best['way']} at {best['speedup']:.2f} x the teacher's speed, batch {best['batch_size']}")
    return ", ".join(found)


def of_limits(limits: Mapping[str, int]) -> list[str]:
    """What limits took of the rows, in words; nothing where they took nothing."""
    length, rows = f"data.sequence_length={limits.get('limit')}", limits.get("looked_at")
    said = {
        "left_out": f"of {rows} rows have no room for their answer in {length} and are left out",
        "cut": f"of {rows} rows lose a part of their answer to {length}",
        "loops": f"of {rows} answers end in a loop (data.cut_loops)",
        "beyond_max_rows": "training rows are beyond data.max_rows",
    }
    return [f"{limits[name]} {words}" for name, words in said.items() if limits.get(name)]


def _plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
