"""The report of an ablation, Markdown and HTML, from its CSV files alone."""

import html
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from drafter.ablation import tables as csv_files
from drafter.ablation.pictures import NORM, draw_all, first_rejections
from drafter.ablation.tables import Tables
from drafter.evaluation.statistics import Comparison, Estimate, average_gain, by_seed, compare, pair

METHOD = (
    "Tokens per cycle: tokens emitted by cycles over cycles, summed over prompts; the prefill's token is in none. "
    "Accepted: draft tokens kept per cycle, without the verifier's own token, which dilutes a relative gain. "
    "Intervals hold 95 % of a paired bootstrap over prompts, the same prompts for both arms, seeds averaged: they say "
    "how far other prompts would move a number, while the spread over seeds says how far other runs would. "
    "All arms of a seed share initial weights and, where they train on the same answers, order of the data and "
    "anchors; the weights measured are the last step's."
)


class Page:
    """A report being written in Markdown and HTML at once."""

    def __init__(self, title: str):
        self.markdown, self.html = [f"# {title}"], [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self.markdown.append(f"## {text}")
        self.html.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.markdown.append(text)
        self.html.append(f"<p>{html.escape(text)}</p>")

    def picture(self, name: str, text: str) -> None:
        self.markdown.append(f"![{text}]({name})")
        self.html.append(f'<img src="{html.escape(name)}" alt="{html.escape(text)}">')

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        self.markdown.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        self.html.append(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")

    def save(self, directory: Path) -> None:
        style = (
            "body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}img{max-width:100%}"
            "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
        )
        head = f'<!doctype html><meta charset="utf-8"><title>Ablation</title><style>{style}</style>'
        (directory / "report.md").write_text("\n\n".join(self.markdown) + "\n")
        (directory / "report.html").write_text("\n".join([head, *self.html]) + "\n")


def build(directory: Path) -> None:
    """Write report.md, report.html and the pictures beside the CSV files of `directory`."""
    tables = csv_files.read(directory)
    comparisons = compare_all(tables)
    draw_all(tables, comparisons, directory)
    page = Page(f"Ablation: {tables.about['name']}")
    _facts(page, tables)
    _main_tables(page, tables, comparisons)
    page.heading("Learning curves")
    page.picture("learning_curves.png", "tokens per cycle on held-out rows over steps")
    _slots(page, tables)
    _gradient_norms(page, tables)
    _arms(page, tables)
    page.save(directory)


def compare_all(tables: Tables) -> dict[str, dict[str, Comparison]]:
    """Suite → arm → against the baseline, on the seeds that both finished; against itself where that is none."""
    found: dict[str, dict[str, Comparison]] = {}
    for suite, arms in tables.counts.items():
        found[suite] = {}
        for arm, counts in arms.items():
            base = tables.baseline if set(tables.seeds.get(tables.baseline, [])) & set(tables.seeds[arm]) else arm
            found[suite][arm] = compare(*pair(counts, tables.seeds[arm], arms[base], tables.seeds[base]))
    return found


def _facts(page: Page, tables: Tables) -> None:
    finished = [run for run in tables.runs if run["status"] == "finished"]
    suites = ", ".join(
        f"{suite} ({next(iter(arms.values()))['cycles'].shape[1]} prompts)" for suite, arms in tables.counts.items()
    )
    about = {key: value for key, value in tables.about.items() if key != "name"}
    about |= {"suites": suites, "runs": f"{len(finished)} of {len(tables.runs)} finished"}
    page.table(["fact", "value"], list(about.items()))
    page.text(METHOD)
    if not tables.seeds.get(tables.baseline):
        page.text(f"The baseline {tables.baseline} has no finished run: there are no gains to show.")
    broken = [[run["arm"], run["seed"], run["status"], run["error"]] for run in tables.runs if run not in finished]
    if broken:
        page.heading("Runs that did not finish")
        page.table(["arm", "seed", "status", "reason"], broken)


def _main_tables(page: Page, tables: Tables, comparisons: dict[str, dict[str, Comparison]]) -> None:
    head = ["arm", "seeds", "tokens/cycle", "spread over seeds", "accepted/cycle", "difference"]
    head += ["gain in tokens/cycle", "gain in accepted/cycle"]
    for suite, arms in comparisons.items():
        page.heading(f"Tokens per cycle: {suite}")
        rows = []
        for arm, found in arms.items():
            counts = tables.counts[suite][arm]
            tokens, kept = by_seed(counts), by_seed(counts, "accepted")
            spread = f"{min(tokens):.3f} to {max(tokens):.3f}"
            spread += f", sd {statistics.stdev(tokens):.3f}" if len(tokens) > 1 else ""
            gains = ["", "", ""] if _no_gain(tables, arm) else [_number(found.difference, sign="+")]
            gains += [] if _no_gain(tables, arm) else [_percent(found.gain), _percent(found.accepted_gain)]
            row = [arm, str(len(tokens)), _number(found.tokens_per_cycle), spread]
            rows.append([*row, f"{statistics.fmean(kept):.3f}", *gains])
        page.table(head, rows)
    page.picture("tokens_per_cycle.png", "tokens per cycle, per suite and arm")
    others = [arm for arm in tables.seeds if not _no_gain(tables, arm)]
    if others:
        page.heading(f"Gain over {tables.baseline}, averaged over {len(comparisons)} suites")
        rows = []
        for arm in others:
            pairs = {
                suite: pair(arms[arm], tables.seeds[arm], arms[tables.baseline], tables.seeds[tables.baseline])
                for suite, arms in tables.counts.items()
            }
            above = all(comparisons[suite][arm].difference.low > 0 for suite in comparisons)
            gains = [_percent(average_gain(pairs, what)) for what in ("emitted", "accepted")]
            rows.append([arm, *gains, "yes" if above else "no"])
        page.table(["arm", "tokens/cycle", "accepted/cycle", "interval above 0 on every suite"], rows)
        page.picture("gains.png", "gains over the baseline with paired intervals")


def _slots(page: Page, tables: Tables) -> None:
    page.heading("Acceptance per slot, and where cycles end")
    page.text(
        "kept: of the cycles that reached the slot, the share that kept it; ends: the share of all cycles whose first "
        "rejection is there."
    )
    for suite, arms in tables.slots.items():
        longest = max(len(kept) for _, kept in arms.values())
        rows = []
        for arm, (reached, kept) in arms.items():
            ends = first_rejections(tables, suite, arm)
            cells = [
                f"{stayed / came:.3f} / {end:.3f}" if came else "never reached"
                for came, stayed, end in zip(reached, kept, ends, strict=True)
            ]
            rows.append([arm, *cells, *[""] * (longest - len(cells))])
        page.table([f"{suite}: kept / ends", *(f"slot {slot}" for slot in range(1, longest + 1))], rows)
    page.picture("slots.png", "acceptance and first rejections per slot")


def _gradient_norms(page: Page, tables: Tables) -> None:
    page.heading("Gradient norm of each term")
    page.text(
        "In the slots' hidden states, without the coefficient: the mean over the last quarter of the steps logged and "
        "over seeds. What a term weighs in a step is this times its coefficient, below. `all` is of the whole "
        "objective, in the drafter's parameters, before clipping."
    )
    terms = sorted({metric for _, metric in tables.curves if metric.startswith(NORM)})
    rows = []
    for arm in tables.seeds:
        cells = []
        for term in terms:
            late = [
                v
                for _, values in tables.curves.get((arm, term), {}).values()
                for v in values[-max(1, len(values) // 4) :]
            ]
            cells.append(f"{statistics.fmean(late):.3g}" if late else "")
        rows.append([arm, *cells])
    page.table(["arm", *(term.removeprefix(NORM) for term in terms)], rows)
    page.picture("gradient_norms.png", "gradient norm of each term over steps")


def _arms(page: Page, tables: Tables) -> None:
    page.heading("Arms, exactly")
    rows = []
    for arm in tables.arms:
        own = [run for run in tables.runs if run["arm"] == arm["arm"] and run["status"] == "finished"]
        minutes = [
            statistics.fmean(float(run[key]) for run in own) / 60 if own else math.nan
            for key in ("train_seconds", "seconds")
        ]
        rows.append([arm["arm"], arm["overrides"], arm["objective"], *(f"{each:.1f}" for each in minutes)])
    page.table(
        [
            "arm",
            "overrides of the base recipe",
            "objective; rewards count negatively",
            "minutes of training",
            "minutes in all",
        ],
        rows,
    )
    settings = {arm["arm"]: json.loads(arm["settings"]) for arm in tables.arms}
    keys = list(dict.fromkeys(key for each in settings.values() for key in each))
    if keys:
        page.text("Every setting in which arms differ:")
        page.table(
            ["setting", *settings], [[key, *(str(each.get(key, "")) for each in settings.values())] for key in keys]
        )


def _no_gain(tables: Tables, arm: str) -> bool:
    return arm == tables.baseline or not set(tables.seeds.get(tables.baseline, [])) & set(tables.seeds[arm])


def _number(one: Estimate, sign: str = "") -> str:
    return f"{one.value:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]"


def _percent(one: Estimate) -> str:
    if not all(map(math.isfinite, (one.value, one.low, one.high))):
        return "not defined: the baseline accepts nothing"
    return f"{one.value:+.1%} [{one.low:+.1%}, {one.high:+.1%}]"
