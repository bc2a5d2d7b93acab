"""The report of an ablation from its CSV files alone: what was found first, how it was made last."""

import json
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

from drafter.ablation import pictures
from drafter.ablation import tables as csv_files
from drafter.ablation.pictures import NORM, first_rejections
from drafter.ablation.tables import Tables
from drafter.evaluation.report import Page
from drafter.evaluation.statistics import Comparison, Estimate, average_gain, by_seed, compare, pair

Comparisons = Mapping[str, Mapping[str, Comparison]]  # suite → arm → against the baseline
METHOD = (
    "Tokens per cycle: tokens emitted by cycles over cycles, summed over prompts; the prefill's token is in none. "
    "Accepted: draft tokens kept per cycle, without the verifier's own token, which dilutes a relative gain. "
    "Intervals hold 95 % of a paired bootstrap over seeds and prompts: a draw takes prompts with replacement and, "
    "independently, seeds, one less than there are, so that their variance is the unbiased one; both arms get the same "
    "draw. Of one seed the interval is over prompts alone, and the gain is a hint: another run may say otherwise. "
    "Where seeds differ more than prompts do, an interval of three seeds holds the truth three times in four, one of "
    "eight nine times in ten. All arms of a seed share initial weights and, where they train on the same answers, "
    "order of the data and anchors; the weights measured are the last step's."
)


def build(directory: Path) -> None:
    """Write report.html, whole in itself, and report.md with its pictures beside the CSV files of `directory`."""
    tables = csv_files.read(directory)
    comparisons = compare_all(tables)
    page = Page(f"Ablation: {tables.about['name']}")
    _findings(page, tables, comparisons)
    _suites(page, tables, comparisons)
    page.heading("Learning curves")
    page.picture(pictures.learning_curves(tables))
    _slots(page, tables)
    _gradient_norms(page, tables)
    _arms(page, tables)
    _facts(page, tables)
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


def average(tables: Tables, arm: str, what: str = "emitted", over: str | None = None) -> Estimate:
    """The gain of an arm over another, averaged over suites.

    Args:
        over: None for the baseline.
    """
    other = over or tables.baseline
    return average_gain(
        {
            suite: pair(arms[arm], tables.seeds[arm], arms[other], tables.seeds[other])
            for suite, arms in tables.counts.items()
        },
        what,
    )


def average_by_seed(comparisons: Comparisons, arm: str) -> list[float]:
    """The gain averaged over suites, seed by seed."""
    return [statistics.fmean(each) for each in zip(*(arms[arm].gains for arms in comparisons.values()), strict=True)]


def verdict(mean: Estimate, suites: list[Estimate]) -> str:
    """What gains say, of the average and of each suite: a word where an interval over seeds and prompts allows one."""
    if mean.hint:
        return "a hint: one seed"
    if all(one.above_zero for one in suites):
        return "ahead on every suite"
    if all(one.high < 0 for one in suites):
        return "behind on every suite"
    if mean.above_zero or mean.high < 0:
        return "ahead on average" if mean.low > 0 else "behind on average"
    return "not settled"


def _findings(page: Page, tables: Tables, comparisons: Comparisons) -> None:
    if not tables.seeds.get(tables.baseline):
        page.text(f"The baseline {tables.baseline} has no finished run: there are no gains to show.")
    others = [arm for arm in tables.seeds if not _no_gain(tables, arm)]
    if others:
        means = {arm: average(tables, arm) for arm in others}
        said = {arm: verdict(means[arm], [arms[arm].gain for arms in comparisons.values()]) for arm in others}
        most = max(others, key=lambda arm: means[arm].value)
        page.lead(
            f"Most tokens per cycle: {most}, {_percent(means[most])} over {tables.baseline}, averaged over "
            f"{len(comparisons)} suites; {said[most]}."
        )
        page.picture(pictures.gains(comparisons))
        page.heading(f"Gain over {tables.baseline}, averaged over {len(comparisons)} suites")
        rows = []
        for arm in others:
            by_seeds = ", ".join(f"{gain:+.1%}" for gain in average_by_seed(comparisons, arm))
            rows.append([arm, _percent(means[arm]), by_seeds, _percent(average(tables, arm, "accepted")), said[arm]])
        page.table(["arm", "tokens/cycle", "seed by seed", "accepted/cycle", "verdict"], rows)
    broken = [run for run in tables.runs if run["status"] != "finished"]
    if broken:
        page.heading("Runs that did not finish")
        page.table(
            ["arm", "seed", "status", "reason"],
            [[run[key] for key in ("arm", "seed", "status", "error")] for run in broken],
        )


def _suites(page: Page, tables: Tables, comparisons: Comparisons) -> None:
    head = ["arm", "seeds", "tokens/cycle", "seed by seed", "accepted/cycle", "difference"]
    head += ["gain in tokens/cycle", "seed by seed", "gain in accepted/cycle"]
    for suite, arms in comparisons.items():
        page.heading(f"Tokens per cycle: {suite}")
        rows = []
        for arm, found in arms.items():
            counts = tables.counts[suite][arm]
            tokens, kept = by_seed(counts), by_seed(counts, "accepted")
            gains = [""] * 4
            if not _no_gain(tables, arm):
                by_seeds = ", ".join(f"{gain:+.1%}" for gain in found.gains)
                gains = [_number(found.difference, "+"), _percent(found.gain), by_seeds, _percent(found.accepted_gain)]
            each = ", ".join(f"{number:.3f}" for number in tokens)
            measured = [_number(found.tokens_per_cycle), each, f"{statistics.fmean(kept):.3f}"]
            rows.append([arm, str(len(tokens)), *measured, *gains])
        page.table(head, rows)
    page.picture(pictures.tokens_per_cycle(tables, comparisons))


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
    page.picture(pictures.slots(tables))


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
    if terms:
        page.picture(pictures.gradient_norms(tables))


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


def _facts(page: Page, tables: Tables) -> None:
    page.heading("How this was made")
    page.text(METHOD)
    finished = sum(run["status"] == "finished" for run in tables.runs)
    suites = ", ".join(
        f"{suite} ({next(iter(arms.values()))['cycles'].shape[1]} prompts)" for suite, arms in tables.counts.items()
    )
    about = {key: value for key, value in tables.about.items() if key != "name"}
    about |= {"suites": suites, "runs": f"{finished} of {len(tables.runs)} finished"}
    page.table(["fact", "value"], list(about.items()))


def _no_gain(tables: Tables, arm: str) -> bool:
    return arm == tables.baseline or not set(tables.seeds.get(tables.baseline, [])) & set(tables.seeds[arm])


def _number(one: Estimate, sign: str = "") -> str:
    return f"{one.value:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]"


def _percent(one: Estimate) -> str:
    if not all(map(math.isfinite, (one.value, one.low, one.high))):
        return "not defined: the baseline accepts nothing"
    return f"{one.value:+.1%} [{one.low:+.1%}, {one.high:+.1%}]"
