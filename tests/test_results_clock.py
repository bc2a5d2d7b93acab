"""Tables of what was timed, and of K-Forcing, hold what the files beside them hold, and texts quote those tables."""

import csv
import json
import math
import re
import statistics

import pytest
from conftest import ROOT
from scipy.stats import t

from drafter.evaluation.measured import cells

RESULTS = ROOT / "docs/results"


def text(path):
    return " ".join((ROOT / path).read_text().replace("**", "").split())


def rows(name):
    """Every row of a README's tables, as cells without emphasis."""
    lines = (RESULTS / name / "README.md").read_text().replace("**", "").replace("*", "").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def records(path):
    """Records of a CSV file, what is a number as one."""

    def value(said):
        try:
            return float(said)
        except ValueError:
            return said

    with (RESULTS / path).open() as file:
        return [{name: value(said) for name, said in record.items()} for record in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["stages", "writing", "speed"])
def test_what_k_forcing_made(name):
    found = records(f"k_forcing/{name}.csv")
    for record in found:
        for whole in ("k", "batch_size"):
            if isinstance(record.get(whole), float):
                record[whole] = int(record[whole])
    shown = rows("k_forcing")
    for line in found:
        said = [f"{one:.3g}" if isinstance(one, float) else str(one) for one in line.values()]
        assert said in shown, said
    assert [name.replace("_", " ") for name in found[0]] in shown
    assert len(cells(found)[1]) == len(found)


def test_joint_laws_of_k_forcing():
    found = records("k_forcing/joint.csv")
    shown = {row[0]: row[1:] for row in rows("k_forcing") if len(row) == 3}

    def said(values):
        margin = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
        mean = statistics.fmean(values)
        return f"{mean:.3f} [{mean - margin:.3f}, {mean + margin:.3f}]"

    def distances(method, tokens):
        mine = [one for one in found if (one["method"], one["tokens"]) == (method, tokens)]
        return [statistics.fmean(one["distance"] for one in mine if one["seed"] == seed) for seed in range(5)]

    for method in {one["method"] for one in found}:
        assert shown[method.replace("_", " ")] == [said(distances(method, tokens)) for tokens in (2, 4)]
    shares = [
        [mine / other for mine, other in zip(distances("k_forcing", n), distances("independent", n), strict=True)]
        for n in (2, 4)
    ]
    assert shown["k forcing over independent"] == [said(each) for each in shares]


def test_where_the_line_runs_at_135_million_weights():
    found = {(int(one["batch_size"]), one["way"]): one for one in records("k_forcing/speed_135m.csv")}
    shown = rows("k_forcing")
    for size in (1, 8, 32):
        students = [found[size, f"k = {count}"] for count in (1, 2, 4)]
        line = [f"{one['tokens_per_second']:.1f} ({one['speedup']:.2f})" for one in students]
        teachers = [found[size, f"teacher, {way}"] for way in ("greedy", "by inverse CDF")]
        assert [str(size), *(f"{one['tokens_per_second']:.1f}" for one in teachers), *line] in shown
        fastest = max(one["tokens_per_second"] for one in teachers)
        assert all(one["speedup"] == pytest.approx(one["tokens_per_second"] / fastest) for one in students)
    four = [found[size, "k = 4"]["speedup"] for size in (1, 8, 32)]
    said = "{:.2f} times its teacher at batch 1, which waits for memory, {:.2f} at 8, {:.2f} at 32".format(*four)
    assert said in text("README.md")
    assert f"{four[0]:.2f} times the teacher where a CPU waits for memory, {four[2]:.2f} at batch 32" in text(
        "docs/results/README.md"
    )


def test_decoding_side_by_side():
    found = json.loads((RESULTS / "decoding/decoding.json").read_text())["results"]
    named = {
        "transformers DFlash assistant": "transformers DFlash assistant, same drafter",
        "ours": "ours, 3 drafts",
    }
    shown, rate = rows("decoding"), {}
    for one in found:
        figures = f"{one['tokens_per_second']:.1f}", f"{one['tokens_per_call']:.2f}", f"{one['speedup']:.2f}"
        assert [str(one["batch_size"]), named.get(one["way"], one["way"]), *figures] in shown
        rate[one["batch_size"], one["way"]] = one["tokens_per_second"]
    written = records("decoding/decoding.csv")
    assert [(one["way"], one["tokens_per_second"]) for one in written] == [
        (one["way"], one["tokens_per_second"]) for one in found
    ]
    loop, engine, drafted = "our loop, no drafts", "vLLM", "vLLM, same drafter"
    ratios = [(rate[size, loop] / rate[size, engine], rate[size, "ours"] / rate[size, drafted]) for size in (1, 8)]
    (plain, drafts), (plain_8, drafts_8) = [[f"{one:.2f}" for one in each] for each in ratios]
    page, front = text("docs/results/decoding/README.md"), text("README.md")
    dflash = rate[1, "ours"] / rate[1, "transformers DFlash assistant"]
    assert f"Batch 1: {plain} times vLLM plainly, {drafts} times with the same drafter; batch 8: {plain_8} and" in page
    assert f"and {drafts_8}. {dflash:.2f} times transformers' DFlash assistant" in page
    assert (
        f"ahead of vLLM run eagerly ({plain} times plainly, {drafts} with the drafter; at batch 8 {plain_8} and"
        in front
    )
    lost = [rate[8, one] / rate[8, other] for one, other in (("ours", loop), (drafted, engine))]
    assert f"Drafts lose at batch 8 in both engines ({lost[0]:.2f} and {lost[1]:.2f} of plain)" in page
    parts = [one for one in found if one["way"] == "ours"]
    assert f"a pass over one token {parts[0]['plain_ms']:.1f} ms as it was timed alone" in page
    assert f"over four {parts[0]['verify_ms']:.1f}, a draft {parts[0]['draft_ms']:.1f}." in page
    assert f"takes {parts[1]['verify_ms']:.0f} ms, a plain one {parts[1]['plain_ms']:.0f}, the ideal is" in page
    assert f"the ideal is {parts[1]['ideal']:.2f}." in page


def test_kernels_and_tiles():
    shown = rows("decoding")
    for one in records("decoding/attention.csv"):
        figures = f"{one['flash_cpu_ms']:.3f}", f"{one['sdpa_ms']:.3f}", f"{one['ratio']:.2f}"
        line = [f"{int(one['batch'])}", f"{int(one['context']):,}".replace(",", " "), *figures]
        assert one["pass"] != "verify" or line in shown, line
    for name, pair in json.loads((RESULTS / "decoding/pairs.json").read_text())["pairs"].items():
        medians = [
            f"{one['median']:.2f} ({one['quartiles'][0]:.2f} to {one['quartiles'][1]:.2f})"
            for one in (pair["processor"], pair["wall"])
        ]
        name = name.replace("in tiles / ours with drafts, as it is", "in tiles / as it is")
        assert [name, *medians] in shown, name


def test_training_steps():
    shown, page = rows("training"), text("docs/results/training/README.md")
    steps = {one["way"]: one for one in json.loads((RESULTS / "training/training.json").read_text())["step"]}
    named = {"plain": "ours in the plain way: one dense mask, all logits"}
    named |= {"specforge": "SpecForge 0.2.0", "speculators": "speculators 0.9.0"}
    for way, name in named.items():
        one = steps[way]
        times = [f"{one[ratio]:.1f}" for ratio in ("time_ratio", "processor_ratio")]
        peak = f"{one['peak_mib']:,.0f} MiB".replace(",", " ")
        assert [name, f"{one['seconds']:.1f}", *times, peak, f"{one['peak_ratio']:.1f}"] in shown
    peers = sorted(steps[way]["processor_ratio"] for way in ("specforge", "speculators"))
    front = f"{peers[0]:.1f} to {peers[1]:.1f} times less processor time than two other trainers"
    assert front in text("README.md")
    assert re.search(r"a third to a fifth of their memory", text("README.md"))
    assert sorted(round(steps[way]["peak_ratio"]) for way in ("specforge", "speculators")) == [3, 5]
    for one in json.loads((RESULTS / "training/cuda.json").read_text())["step"]:
        time, peak = (f"{one[ratio]:.2f}".replace("1.00", "1") for ratio in ("time_ratio", "peak_ratio"))
        line = [f"{one['seconds']:.3f}", time, f"{one['peak_mib'] / 1024:.1f} GiB", peak]
        assert line in [row[1:] for row in shown]
    assert "not the quotient of the seconds beside them" in page


def test_the_first_page_shows_the_quickstart_that_is_kept():
    found = json.loads((RESULTS / "quickstart/summary.json").read_text())
    figures = f"{found['tokens_per_cycle']:.3f} tokens per cycle on held-out rows, "
    figures += f"{found['tokens_per_cycle_untrained']:.3f} before training, {found['speedup']:.2f} x the speed"
    assert figures in text("docs/index.md")


def test_what_a_step_costs_over_sizes():
    shown = rows("training")
    for axis, points in json.loads((RESULTS / "training/training.json").read_text())["over"].items():
        at = shown.index(
            [
                {"length": "tokens of the row", "block_size": "block"}.get(axis, axis),
                *(str(one[axis]) for one in points),
            ]
        )
        assert shown[at + 2][1:] == [f"{one['processor']:.2g}" for one in points]
        assert shown[at + 3][1:] == [f"{one['peak'] / 2**20:.0f}" for one in points]


def test_what_the_host_costs():
    lines = json.loads((RESULTS / "evaluation/host.json").read_text())["lines"]
    first, batched, observed, *last = lines
    named = (
        ("decoding, one prompt at a time", first),
        ("decoding, 8 prompts together", batched),
        ("slots observed", observed),
    )
    for name, one in named:
        assert [name, f"{one['passes_ms']:.1f}", f"{one['host_ms']:.2f}"] in rows("evaluation")
    shown = sum(one["host_ms"] for one in last)
    assert ["slots diagnosed, answers shown", "0", f"{shown:.2f}"] in rows("evaluation")
    assert f"Together {first['host_ms'] + observed['host_ms'] + shown:.2f} ms a cycle" in text(
        "docs/results/evaluation/README.md"
    )


def test_the_first_column_of_the_quickstart():
    found = json.loads((RESULTS / "quickstart/summary.json").read_text())
    shown = {row[0].partition(":")[0]: row[1] for row in rows("quickstart")}
    assert shown["verifier calls, speculative; plain"] == f"{found['verifier_calls']}; {found['verifier_calls_plain']}"
    assert shown["tokens per cycle against the clock"] == f"{found['tokens_per_cycle_timed']:.2f}"
    rates = found["tokens_per_second"]
    ways = rates["speculative, a tree of 5"], rates["plain loop"], rates["transformers generate"]
    assert shown["tokens per second"] == "; ".join(f"{one:.1f}" for one in ways)
    assert (
        float(shown["speed-up over the faster plain way"]) == round(ways[0] / ways[1], 2) == round(found["speedup"], 2)
    )
    decoded = found["tokens_per_cycle_decoded"], found["tokens_per_cycle_walk_of_decoded"]
    assert shown["decoded in a row, 6 prompts x 128 tokens; walk of the same answers"] == "; ".join(
        f"{one:.3f}" for one in decoded
    )
