"""A whole run: what it leaves, that it learns, and that a killed one ends as an undisturbed one."""

import csv
import json
import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_verifier, memorise

from drafter import answers
from drafter.config import load
from drafter.data.rows import make_rows, split, validation_and_test
from drafter.decode import SpeculativeDecoder, tokens_per_cycle
from drafter.export import export
from drafter.models import BlockDiffusionDrafter
from drafter.training.logs import Metrics
from drafter.training.runs.alignment import train

REQUIRED = {
    "tokens_per_cycle",
    "tokens_per_cycle_decoded",
    "tokens_per_cycle_untrained",
    "speedup",
    "verifier_calls",
    "greedy_mismatches",
    "parameters",
    "steps",
    "train_tokens",
    "seconds",
}
DECIDED = ["tokens_per_cycle", "tokens_per_cycle_decoded", "tokens_per_cycle_untrained", "steps", "train_tokens"]


def records(directory):
    """The rows of metrics.csv, without empty cells."""
    with (directory / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def losses(directory):
    return [float(row["loss"]) for row in records(directory) if "loss" in row]


def summary(directory):
    return json.loads((directory / "summary.json").read_text())


def test_the_summary_holds_what_a_run_must_show(finished_run):
    found = summary(finished_run)
    assert found.keys() >= REQUIRED
    assert found["greedy_mismatches"] == 0
    assert found["verifier_calls"] <= found["verifier_calls_plain"]
    per_epoch = [float(row["anchor_coverage"]) for row in records(finished_run) if "anchor_coverage" in row]
    assert len(per_epoch) >= 3
    assert found["anchor_coverage"] == per_epoch[-1]
    assert 0.5 < found["anchor_coverage"] < 1
    assert found["limits"] == {"looked_at": 48, "left_out": 0, "cut": 0, "limit": 512, "loops": 1, "beyond_max_rows": 0}


def test_figures_of_a_run_are_the_decoders_own(tiny_words, tmp_path):
    """It starts from a drafter that knows most of the held-out answers; in one step it can't unlearn them.

    The headline is of other documents than those that chose the checkpoint.
    """
    words = ["drafter.vocabulary=full", "training.max_steps=1", "training.learning_rate=1e-9", "decoding.prompts=3"]
    words += ["data.validation_rows=3", "data.test_rows=3"]
    recipe, *overrides = tiny_words(tmp_path, *words, f"drafter.start={tmp_path / 'start'}")
    config, verifier = load(recipe, overrides), make_verifier("llama")
    made, data = answers.read(Path(config.data.answers))[0], config.data
    _, held_out = split(make_rows(made, verifier, data.sequence_length), data.validation_share)
    parts = validation_and_test(held_out, data.validation_share, data.validation_rows, data.test_rows)
    known = [(row.ids[: row.start], row.answer) for part in parts for row in part]
    export(memorise(verifier, known, tap_layers=[1, 2, 3]), tmp_path / "start", {})
    found = train(config)
    drafter = BlockDiffusionDrafter.from_pretrained(tmp_path / "tiny/export", dtype=torch.float32)
    decoder, longest = SpeculativeDecoder(verifier, drafter), max(len(row["answer_ids"]) for row in made)
    validation, test = (
        tokens_per_cycle(decoder.generate([row.ids[: row.start] for row in part], longest, batch_size=8))
        for part in parts
    )
    assert found["tokens_per_cycle"] == test > 1.2
    assert found["tokens_per_cycle_validation"] == validation != test
    assert found["tokens_per_cycle_decoded"] == found["tokens_per_cycle_walk_of_decoded"] > 1.2


def test_a_run_leaves_its_files(finished_run):
    for name in ("config.yaml", "metrics.csv", "export/model.safetensors"):
        assert (finished_run / name).stat().st_size > 0
    page = (finished_run / "report.html").read_text()
    assert page.count("<svg") == 4  # objective, tokens per cycle, slots, speeds
    assert "tokens per cycle on held-out rows" in page.split("<svg")[0]
    assert "max_steps: 50" in page
    assert load(finished_run / "config.yaml").training.max_steps == 50


def test_every_step_and_validation_is_logged_once(finished_run):
    found = records(finished_run)
    assert [int(row["step"]) for row in found if "loss" in row] == list(range(50))
    assert [int(row["step"]) for row in found if "tokens_per_cycle_held_out" in row] == list(range(4, 50, 5))
    terms = {f"{kind}/{name}" for kind in ("train", "gradient_norm") for name in ("decayed_ce", "first_error")}
    assert terms < {name for row in found for name in row}


def test_the_loss_falls(finished_run):
    found = losses(finished_run)
    assert sum(found[-10:]) / 10 < 0.9 * sum(found[:10]) / 10


def test_checkpoints_hold_the_drafter_alone_and_load_safely(finished_run):
    size = 4 * summary(finished_run)["parameters"]
    assert sorted(path.name for path in (finished_run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    for name in ("best", "last"):  # without the optimiser's two moments: no step follows
        path = finished_run / f"checkpoints/{name}.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(key.startswith("drafter.") for key in state)
        assert sum(weight.nbytes for weight in state.values()) == size
        assert path.stat().st_size < size + 150_000


def test_the_best_checkpoint_is_the_best(finished_run):
    walked = {
        int(row["step"]): float(row["tokens_per_cycle_held_out"])
        for row in records(finished_run)
        if "tokens_per_cycle_held_out" in row
    }
    best = max(walked.values())
    assert summary(finished_run)["steps"] == min(step for step, value in walked.items() if value == best) + 1


def test_a_finished_run_is_not_trained_again(finished_run, monkeypatch, caplog):
    monkeypatch.setattr("drafter.training.module.DrafterModule.training_step", None)
    before = summary(finished_run)
    with caplog.at_level(logging.INFO, "drafter"):
        after = train(load(finished_run / "config.yaml"))
    rows = before["train_rows"]
    assert f"{rows} rows, {before['train_tokens']} answer tokens" in caplog.text  # what a run is about to do
    assert f"50 steps of 4 rows, {50 / (rows // 4):.3g} epochs" in caplog.text
    assert {name: after[name] for name in DECIDED} == {name: before[name] for name in DECIDED}
    assert len(losses(finished_run)) == 50


def killed(words, at):
    """Run `train.py` in a process of its own that ends, with nothing said or flushed, inside training step `at`."""
    script = """
        import os, sys
        import conftest
        import train
        from drafter.training.module import DrafterModule

        step = DrafterModule.training_step

        def step_or_die(self, batch, index):
            if batch.number == int(sys.argv[1]):
                os._exit(9)
            return step(self, batch, index)

        DrafterModule.training_step = step_or_die
        train.main(sys.argv[2:])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(at), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_killed_twice_ends_as_an_undisturbed_one(finished_run, tiny_words, tmp_path, caplog, recwarn):
    """Killed before half of its steps, and in the step after the best checkpoint, when that is the newest."""
    last = min(summary(finished_run)["steps"], 45)
    words = tiny_words(tmp_path)
    for at in (7, last):
        assert killed(words, at).returncode == 9
    assert not (tmp_path / "tiny/summary.json").exists()
    with caplog.at_level(logging.INFO, "drafter"):
        resumed = train(load(words[0], words[1:]))
    assert f"resuming tiny at step {last} of 50" in caplog.text
    assert not [str(each.message) for each in recwarn if "resumable" in str(each.message)]
    assert losses(tmp_path / "tiny") == losses(finished_run)
    assert sorted(map(str, records(tmp_path / "tiny"))) == sorted(map(str, records(finished_run)))
    assert {name: resumed[name] for name in DECIDED} == {name: summary(finished_run)[name] for name in DECIDED}
    one, other = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in (tmp_path / "tiny", finished_run)
    )
    assert all(torch.equal(one[name], weight) for name, weight in other.items())


def test_an_interrupted_run_ends_as_an_undisturbed_one(finished_run, tiny_words, tmp_path, monkeypatch):
    """Ctrl-C before the first checkpoint: what Lightning leaves then must not be taken for one."""
    words = tiny_words(tmp_path)
    with monkeypatch.context() as patch:

        def interrupt(self, batch, index):
            raise KeyboardInterrupt

        patch.setattr("drafter.training.module.DrafterModule.training_step", interrupt)
        with pytest.raises(SystemExit):
            train(load(words[0], words[1:]))
    train(load(words[0], words[1:]))
    assert losses(tmp_path / "tiny") == losses(finished_run)


def test_a_run_of_another_recipe_is_refused(finished_run, tiny_words):
    recipe, *overrides = tiny_words(finished_run.parent, "seed=1")
    with pytest.raises(
        ValueError, match=r"name='tiny': .* holds a run of another recipe \(other seed\); choose another name"
    ):
        train(load(recipe, overrides))


@pytest.mark.parametrize(
    "settings",
    [
        ["training.precision=bfloat16", "drafter.start=random", "drafter.vocabulary=full", "data.taps=online"],
        [
            "data.streaming=true",
            "data.taps=online",
            "training.workers=1",
            "data.shuffle_buffer=9",
            "data.packing=true",
            "decoding.tree_nodes=4",
        ],
        ["training.accumulate=2", "drafter.vocabulary=20", "drafter.block_size=9", "training.log_every=100"],
    ],
    ids=[
        "bfloat16, random, full, online",
        "streamed, packed, trees",
        "accumulated, few tokens, long blocks, nothing logged",
    ],
)
def test_other_recipes_run(tiny_words, tmp_path, settings):
    recipe, *overrides = tiny_words(tmp_path, *settings)
    every = 5 if "data.streaming=true" in settings else "null"
    quick = ["training.max_steps=3", f"training.validate_every={every}", "decoding.max_new_tokens=8"]
    found = train(load(recipe, overrides + quick))
    assert found["greedy_mismatches"] == 0
    assert found["tokens_per_cycle_decoded"] == found["tokens_per_cycle_walk_of_decoded"]
    assert found["steps"] == 3


def test_parts_of_metrics_are_merged_up_to_where_the_next_began(tmp_path):
    metrics = Metrics(tmp_path)
    for first, content in (
        (0, "step,loss\n0,a\n1,b\n2,c\n3,d\n"),
        (2, "step,loss,walk\n2,e,\n3,,f\n4,g,\n1"),  # it was to be 11
        (3, "loss,step\nh,3\n"),
    ):
        metrics.part(first).mkdir(parents=True)
        (metrics.part(first) / "metrics.csv").write_text(content)
    assert metrics.merged().read_text().split() == ["step,loss,walk", "0,a,", "1,b,", "2,e,", "3,h,"]


def test_what_was_logged_behind_a_checkpoint_that_broke_is_logged_again(tmp_path):
    """A run that had gone on from step 3 goes on from step 2 now."""
    metrics = Metrics(tmp_path)
    for first, content in ((0, "step,loss\n0,a\n1,b\n2,c\n"), (3, "step,loss\n3,d\n4,e\n")):
        metrics.part(first).mkdir(parents=True)
        (metrics.part(first) / "metrics.csv").write_text(content)
    metrics.forget(2)
    metrics.part(2).mkdir()
    (metrics.part(2) / "metrics.csv").write_text("step,loss\n2,C\n3,D\n4,E\n5,F\n")
    assert metrics.merged().read_text().split() == ["step,loss", "0,a", "1,b", "2,C", "3,D", "4,E", "5,F"]
