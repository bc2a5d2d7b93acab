"""What README files say of results is what the committed CSV files hold, figure by figure."""

import csv
import json
import re
from functools import cache
from pathlib import Path

import pytest

from drafter.ablation import report, tables
from drafter.config import load

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs/results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/results.csv"))
CLAIM = re.compile(r"[+-]\d+\.\d %(?: \[[+-]\d+\.\d, [+-]\d+\.\d\])?")


@cache
def study(name):
    found = tables.read(RESULTS / name)
    return found, report.compare_all(found)


def said(estimate):
    """An estimate as README files write it: `+14.2 % [+12.5, +16.0]`."""
    return f"{100 * estimate.value:+.1f} % [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"


def cells(name):
    """The rows of a README's tables that open with an arm in backticks: arm → cells without emphasis."""
    lines = (RESULTS / name / "README.md").read_text().replace("**", "").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return {re.match(r"`(\w+)`", row[0])[1]: row[1:] for row in rows}


@pytest.mark.parametrize("name", STUDIES)
def test_tables_hold_what_the_csv_files_give(name):
    found, comparisons = study(name)
    rows = cells(name)
    assert set(rows) == set(found.seeds) - {found.baseline}
    for arm, row in rows.items():
        mean = report.average(found, arm)
        of_seeds = [f"{100 * gain:+.1f} %" for gain in report.average_by_seed(comparisons, arm)]
        verdict = report.verdict(mean, [arms[arm].gain for arms in comparisons.values()])
        accepted = said(report.average(found, arm, "accepted"))
        assert row == ([said(mean), accepted] if mean.hint else [said(mean), ", ".join(of_seeds), accepted, verdict])


@cache
def prose(name):
    """Claims outside the tables: what is claimed → what the CSV files give."""
    found, comparisons = study(name)
    given = {f"{arm} on {suite}": said(arms[arm].gain) for suite, arms in comparisons.items() for arm in arms}
    for arm in found.seeds:
        given[arm] = said(report.average(found, arm))
        for over in found.seeds:
            if over not in (arm, found.baseline):
                given[f"{arm} over {over}"] = said(report.average(found, arm, over=over))
    return given


@pytest.mark.parametrize("name", STUDIES)
def test_intervals_in_the_text_are_of_some_comparison(name):
    """Every figure with an interval outside the tables is one that the CSV files give."""
    text = (RESULTS / name / "README.md").read_text().replace("**", "")
    lines = " ".join(line for line in text.splitlines() if not line.startswith("|"))
    claims = [claim for claim in CLAIM.findall(lines) if "[" in claim]
    given = set(prose(name).values())
    assert [claim for claim in claims if claim not in given] == []


CLAIMED = {
    "losses": (
        "held-out {full_as_printed on held_out}, HumanEval {full_as_printed on humaneval}, MT-bench "
        "{full_as_printed on mt_bench}",
        "Over decay alone it is {full_as_printed over decay}",
        "first-error 0.08 is {decay_first_error over decay} over it, with chain 5 it is {full over decay}",
        "as printed the stack is {full_as_printed over full} over 0.08 and 5",
    ),
    "losses_qwen3": (
        "decay with first-error is {decay_first_error over decay} over decay alone; the full stack over decay is "
        "{full over decay}, not settled",
    ),
    "small_block16": (
        "held-out {full on held_out}, HumanEval {full on humaneval}, MT-bench {full on mt_bench}, and in each of eight",
        "first-error on HumanEval {uniform_first_error on humaneval}",
        "the chain on held-out {uniform_chain on held_out}",
        "full is {full over decay} over decay",
        "what the chain adds to decay and first-error, {full over decay_first_error}",
        "first-error adds to decay, {decay_first_error over decay}, are not settled",
        "level with full ({full_cap_1 over full})",
    ),
    "small_block16_whole": (
        "held-out {full_faster on held_out}, HumanEval {full_faster on humaneval}, MT-bench {full_faster on mt_bench};",
    ),
    "small_block16_long": (
        "held-out {full on held_out}, HumanEval {full on humaneval}, MT-bench {full on mt_bench}, and on average in",
        "full is {full over decay} over decay",
    ),
    "small_block16_rivals": (
        "level with the three losses: {full over dpace} for full over it",
        "{full} where uniform stands at",
        "held-out {full on held_out}, HumanEval {full on humaneval}, MT-bench {full on mt_bench};",
    ),
    "small_block16_labels": (
        "held-out {verifier on held_out}, HumanEval {verifier on humaneval}",
        "no difference that shows: {verifier on mt_bench}",
    ),
    "rivals": ("({dpace over decay} and {lk_alpha over decay} over it)",),
}


@pytest.mark.parametrize(("name", "sentence"), [(name, one) for name, all_ in CLAIMED.items() for one in all_])
def test_sentences_quote_the_comparison_that_they_name(name, sentence):
    expected = re.sub(r"\{(.*?)\}", lambda place: prose(name)[place[1]], sentence)
    assert expected in " ".join((RESULTS / name / "README.md").read_text().split())


@pytest.mark.parametrize("name", STUDIES)
def test_committed_reports_are_those_of_their_csv_files(name, tmp_path):
    """`python -m drafter ablate docs/results/NAME --report-only` would change nothing."""
    for file in tables.FILES:
        (tmp_path / file).write_bytes((RESULTS / name / file).read_bytes())
    report.build(tmp_path)
    assert (tmp_path / "report.md").read_text() == (RESULTS / name / "report.md").read_text()
    committed = (RESULTS / name / "report.html").read_text()
    assert committed.count("<svg") > 6
    bare = re.sub(r"(?:<svg.*?</svg>\n?)+", "", committed, flags=re.DOTALL)  # a font may move a label
    assert bare == (tmp_path / "report.html").read_text()


def test_the_readme_quotes_the_quickstart_and_the_decoder():
    text = " ".join((ROOT / "README.md").read_text().split())
    summary = json.loads((RESULTS / "quickstart/summary.json").read_text())
    with (RESULTS / "decoding/decoding.csv").open() as file:
        (ours,) = [row for row in csv.DictReader(file) if (row["way"], row["batch_size"]) == ("ours", "1")]
    quickstart = (RESULTS / "quickstart/README.md").read_text()
    row = next(line for line in quickstart.splitlines() if line.startswith("| speed-up over"))
    assert f"{summary['speedup']:.2f}" in row
    assert f"{summary['tokens_per_cycle']:.2f} tokens per cycle on held-out prompts" in text
    least, most = re.search(r"(1\.\d\d) to (1\.\d\d) from run to run", text).groups()
    assert f"gave {least}" in quickstart
    assert f"speed-up {most}" in quickstart
    assert all(float(least) <= float(one) <= float(most) for one in re.findall(r"1\.\d\d", row))
    assert load(ROOT / "recipes/quickstart.yaml").decoding.prompts == 6
    assert f"{least} to {most} from run to run on six prompts of the training kind; on HumanEval" in text
    over = f"{float(ours['over_loop']):.2f} over its own plain loop, {float(ours['speedup']):.2f} over transformers'"
    assert f"on HumanEval and MT-bench {over}" in text


QUOTED = ("losses", "small_block16_long")


def test_the_readme_quotes_the_losses():
    text = " ".join((ROOT / "README.md").read_text().split())
    given = {said(report.average(study(name)[0], arm)) for name in QUOTED for arm in study(name)[0].seeds}
    claims = [claim for claim in CLAIM.findall(text) if "[" in claim]
    assert claims
    assert [claim for claim in claims if claim not in given] == []


def test_uniform_is_where_the_texts_say():
    found, _ = study("losses")
    uniform = [report.compare_all(found)[suite]["uniform"].tokens_per_cycle.value for suite in found.counts]
    text = (RESULTS / "losses/README.md").read_text()
    assert f"Uniform stands at {min(uniform):.2f} to {max(uniform):.2f} tokens per cycle" in text
    found, _ = study("losses_qwen3")
    seeds = sorted(report.by_seed(found.counts["held_out"]["uniform"]))
    text = " ".join((RESULTS / "losses_qwen3/README.md").read_text().split())
    assert f"Uniform's own seeds lie between {seeds[0]:.2f} and {seeds[-1]:.2f} tokens per cycle" in text


def test_what_a_loss_costs_is_not_read_off_a_busy_machine():
    """Two losses of equal work are as far apart as any: no ratio of a shared machine's seconds is a claim."""
    with (RESULTS / "rivals/runs.csv").open() as file:
        seconds = {row["arm"]: float(row["train_seconds"]) for row in csv.DictReader(file)}
    text, _, corrected = (RESULTS / "rivals/README.md").read_text().partition("**Corrected")
    took = f"took {seconds['total_variation']:.0f} and {seconds['lk_alpha']:.0f} seconds"
    assert took in " ".join(text.split())
    assert "times as long" not in text
    assert "was the machine's noise" in corrected


TUNED = {
    "losses": (4e-3, 400, "nothing is known between 4e-3 and 8e-3"),
    "losses_qwen3": (1.5e-3, 800, "The learning rate, 1.5e-3, is the uniform arm's best of six at 400 steps"),
}


@pytest.mark.parametrize("name", TUNED)
def test_what_is_not_known_of_a_learning_rate_is_said(name):
    rate, steps, said_of_it = TUNED[name]
    with (RESULTS / name / "about.csv").open() as file:
        recipe = dict(csv.reader(file))["base recipe"].split()
    overrides = [word for word in recipe if word.startswith("training.")]
    settings = load(ROOT / recipe[0], ["data.answers=a", *overrides]).training
    assert (settings.learning_rate, settings.max_steps) == (rate, steps)
    text = " ".join((RESULTS / name / "README.md").read_text().split())
    assert said_of_it in text
    assert f"{steps} steps" in text


def test_texts_of_both_ways_are_counted_in_every_dtype():
    """In a row, and on a CPU, drafts change no bit: not in bfloat16 either."""
    counted = json.loads((RESULTS / "decoding/exactness.json").read_text())["dtypes"]
    text = (RESULTS / "decoding/README.md").read_text().replace("**", "")
    for dtype, found in counted.items():
        tokens = f"{found['tokens']:,}".replace(",", " ")
        cells = [dtype, found["prompts"], tokens, *(found[name] for name in ("same", "tie", "explained", "mismatch"))]
        assert f"| {' | '.join(map(str, cells))} |" in text
        assert found["same"] == found["prompts"]


def test_no_record_names_a_folder_of_the_machine_that_made_it():
    """Where a benchmark found its drafter and its peers is no part of what it found."""
    files = [path for path in RESULTS.rglob("*") if path.suffix in (".json", ".csv", ".md")]
    assert files
    assert [
        path.name for path in files if re.search(r"(?:^|[\s\"',(=])/(?:tmp|root|home)/", path.read_text(), re.M)
    ] == []
