"""`benchmark`, and what it is made of: what is counted, in which turn, and what is written."""

import csv
import json
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import BY_THE_CLOCK, make_memorising, make_prompts, make_verifier
from test_export_layouts import exported

from drafter.__main__ import main
from drafter.decode import Generation
from drafter.evaluation import race as racing
from drafter.evaluation.grid import COLUMNS, Drafts, Grid, measure
from drafter.evaluation.measured import table
from drafter.evaluation.parts import Parts
from drafter.evaluation.race import race
from drafter.evaluation.report.benchmarked import finding, speedups


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a way of decoding says so."""
    now = [0.0]
    monkeypatch.setattr(racing.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(racing, "timed", BY_THE_CLOCK)
    return now


def test_a_race_takes_turns_and_counts_what_comes_behind_the_first_token(clock):
    order = []

    def way(name, prefill, spent):
        costs = iter(spent)

        def decode(prompts, limit):
            order.append((name, limit))
            clock[0] += {1: prefill, 8: 0}.get(limit) or (0 if limit == 8 else prefill + next(costs))
            return [
                Generation(list(range(limit)), [1] * (limit // 2), emitted=[2] * (limit // 2), verifier_calls=4)
                for _ in prompts
            ]

        return decode

    ways = {"slow": way("slow", 5, [90, 10, 30, 7, 7, 7]), "fast": way("fast", 5, [1, 2, 3, 4, 5, 600])}
    laps = race(ways, [[[1], [2]], [[3]]], 9, 3, torch.device("cpu"), lambda: order.append("between"))
    assert laps["slow"].seconds == 30 + 7  # medians
    assert laps["fast"].seconds == 2 + 5
    assert laps["fast"].tokens == 3 * 8
    assert laps["fast"].verifier_calls == 3 * 3
    assert laps["fast"].seconds_per_token == 7 / 24
    assert laps["fast"].cycles.count == 3 * 4
    turn = ["between", ("slow", 1), ("slow", 9), ("fast", 1), ("fast", 9)]
    assert order == [("slow", 8), ("fast", 8), *6 * turn]


def test_what_is_shorter_than_its_prefill_has_no_speed(clock):
    """A first call that captures graphs takes longer than the whole answer after it."""

    def way(prompts, limit):
        clock[0] += 3 if limit == 1 else 1
        return [Generation([1, 2], [0], emitted=[1], verifier_calls=2) for _ in prompts]

    (lap,) = race({"way": way}, [[[1]]], 2, 1, torch.device("cpu")).values()
    assert math.isnan(lap.tokens_per_second)
    assert math.isnan(lap.seconds_per_token)


def test_on_cuda_each_round_is_run_once_before_it_is_timed(clock, monkeypatch):
    monkeypatch.setattr(racing.torch.cuda, "synchronize", lambda *_: None)
    order = []

    def way(prompts, limit):
        order.append((len(prompts), limit))
        return [Generation([1] * limit, [0], emitted=[1], verifier_calls=2) for _ in prompts]

    race({"way": way}, [[[1], [2]], [[3]]], 5, 1, torch.device("cuda"))
    assert order == [(2, 8), (2, 5), (2, 1), (2, 5), (1, 5), (1, 1), (1, 5)]


def test_parts_are_the_decoders_passes():
    verifier, drafter = make_verifier("llama"), make_memorising("llama")
    parts = Parts(verifier, drafter, 2, 20, [2, 4], [3])
    widths = []
    step = verifier.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verifier, "step", lambda ids, *rest: widths.append(tuple(ids.shape)) or step(ids, *rest))
        parts.measure()
        parts.measure()
    assert widths == 2 * [(2, 1), (2, 1), (2, 2), (2, 4)]  # the first one is not timed
    parts.verifications, parts.drafts = {1: [10.0, 99.0, 1.0], 4: [12.0]}, {3: [3.0, 1.0]}
    assert (parts.verify(1), parts.verify(4), parts.draft(3), parts.draft(0)) == (10, 12, 2, 0)  # medians
    assert (parts.cycle(0), parts.cycle(3)) == (10, 14)
    assert parts.ideal(2.8, 3) == 2.8 * 10 / 14


def test_no_timed_pass_is_the_first_behind_something_else(monkeypatch):
    """Behind other ways' turns the first pass is slower: over one token it once took 26.7 ms, over four 19.3."""
    parts, seen = Parts(make_verifier("llama"), make_memorising("llama"), 1, 20, [4], [3]), []
    verify = parts._verify
    monkeypatch.setattr(parts, "_verify", lambda width: (seen.append(width), verify(width))[1])
    monkeypatch.setattr("drafter.evaluation.parts.timed", lambda _, run, *words: (seen.append("timed"), run(*words)))
    parts.measure()
    assert seen == [1, "timed", 1, "timed", 4, "timed"]


def test_cells_compare_with_draft_length_0():
    verifier, drafter, prompts = make_verifier("llama"), make_memorising("llama"), make_prompts()[:3]
    grid = Grid([0.0, 1.0], [1, 2], [Drafts(3)], max_new_tokens=8, repeats=1)
    cells = [SimpleNamespace(**cell.figures()) for cell in measure(verifier, drafter, {"some": prompts}, grid)]
    keys = [(cell.temperature, cell.batch_size, cell.drafts) for cell in cells]
    assert keys == [(t, b, g) for t in (0.0, 1.0) for b in (1, 2) for g in ("0", "3")]
    for plain, drafted in zip(cells[::2], cells[1::2], strict=True):
        assert plain.speedup == 1
        assert plain.tokens_per_cycle == 1
        assert plain.verifier_calls == plain.tokens == 21
        assert plain.ideal is plain.share_of_ideal is None
        assert drafted.speedup == pytest.approx(plain.ms_per_token / drafted.ms_per_token)
        ideal = drafted.tokens_per_cycle * drafted.plain_ms / (drafted.verify_ms + drafted.draft_ms)
        assert drafted.ideal == pytest.approx(ideal)
        assert drafted.share_of_ideal == pytest.approx(drafted.speedup / ideal)
        assert (drafted.host_ms_per_cycle is None) == (drafted.batch_size > 1)
        cycle = drafted.ms_per_token * drafted.tokens_per_cycle
        if drafted.batch_size == 1:
            assert drafted.host_ms_per_cycle == pytest.approx(cycle - drafted.verify_ms - drafted.draft_ms)
    assert cells[1].tokens_per_cycle > 1.3
    assert cells[1].verifier_calls < 21
    assert len({len(line) for line in table([vars(cell) for cell in cells], COLUMNS).splitlines()}) == 1


def test_the_command_writes_table_csv_report_and_json(tmp_path, capsys, drawn):
    drafter = exported(tmp_path / "drafter", make_memorising("llama"))
    suite = tmp_path / "own.jsonl"
    suite.write_text("".join(json.dumps({"prompt": f"Question {i}?"}) + "\n" for i in range(5)))
    words = ["--verifier", "tiny-llama", "--suites", str(suite), "--dtype", "float32", "--prompts", "2"]
    sizes = ["--max-new-tokens", "6", "--repeats", "1", "--draft-lengths", "2", "--batch-sizes", "1", "2"]
    out = ["--out", str(tmp_path / "out"), "--json", str(tmp_path / "a.json")]
    main(["benchmark", str(drafter), *words, *sizes, *out])
    assert "| own   | 0           | 2          | 2      |" in capsys.readouterr().out
    with (tmp_path / "out/benchmark.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["batch_size"], row["drafts"]) for row in rows] == [
        ("1", "0"),
        ("1", "2"),
        ("2", "0"),
        ("2", "2"),
    ]
    assert set(COLUMNS) < set(rows[0])
    assert (tmp_path / "out/report.html").read_text().count("<svg") == 1
    report = json.loads((tmp_path / "a.json").read_text())
    assert [cell["drafts"] for cell in report["cells"]] == ["0", "2", "0", "2"]
    assert report["settings"]["prompts"] == 2
    with pytest.raises(SystemExit, match="batch-sizes=0: must be >= 1"):
        main(["benchmark", str(drafter), *words, "--batch-sizes", "0"])
    with pytest.raises(SystemExit, match="draft_length=9"):
        main(["benchmark", str(drafter), *words, "--draft-lengths", "0", "9"])
    with pytest.raises(SystemExit, match="temperature=-1"):
        main(["benchmark", str(drafter), *words, "--temperatures", "0", "-1"])


def test_trees_and_lengths_chosen_by_cost_are_cells_of_their_own(drawn):
    verifier, drafter, prompts = make_verifier("llama"), make_memorising("llama"), make_prompts()[:2]
    drafts = [Drafts(2), Drafts("auto"), Drafts(nodes=4), Drafts(nodes="auto")]
    cells = list(measure(verifier, drafter, {"some": prompts}, Grid([0.0], [2], drafts, max_new_tokens=8, repeats=1)))
    assert [cell.drafts for cell in cells] == ["0", "2", "auto", "tree 4", "tree auto"]
    assert {cell.measured.tokens for cell in cells} == {14}
    assert [cell.ideal is None for cell in cells] == [True, False, True, True, True]
    assert cells[3].measured.tokens_per_cycle > 1.3
    assert len(speedups(cells).svgs()) == 1
    assert finding(cells).startswith(("At best ", "Nothing pays here; the best is "))
    assert finding(cells[:1]) == "Nothing was drafted: these are figures of plain decoding."
