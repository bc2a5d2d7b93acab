"""Bad gradients, signals and seconds, on a line that is fitted: nothing here knows a drafter."""

import json
import os
import re
import signal
from collections import Counter
from itertools import count

import pytest
import torch
from safetensors.torch import load_file
from test_fitting import Line, Points, weights

import train
from drafter.config import FittingConfig
from drafter.training.checkpoints import read_checkpoint
from drafter.training.fitting import fit
from drafter.training.optimisation import optimisation


class Spoilt(Line):
    """Its objective is not a number in some steps; the optimiser is fused, or not."""

    def __init__(self, bad, fused):
        super().__init__()
        self.bad, self.fused, self.path = bad, fused, []

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.path.append(self.line.weight.detach().clone())
        return loss * float("nan") if self.global_step in self.bad else loss

    def configure_optimizers(self):
        made = optimisation(self, FittingConfig(learning_rate=0.05, schedule="constant", warmup=0.0))
        return made if self.fused else torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_without_a_finite_gradient_changes_nothing_and_is_counted(tmp_path, fused):
    line = Spoilt({3, 4, 7}, fused)
    fit(line, Points(), tmp_path, FittingConfig(max_steps=12, log_every=1, max_skipped=3), "nearness")
    moved = [not torch.equal(one, other) for one, other in zip(line.path, line.path[1:], strict=False)]
    assert moved == [step not in (3, 4, 7) for step in range(11)]
    assert read_checkpoint(tmp_path / "checkpoints/last.ckpt")["callbacks"]["Guard"] == {"skipped": 3, "in_a_row": 0}


@pytest.mark.parametrize("fused", [True, False])
def test_too_many_in_a_row_end_the_run_with_the_batch_on_disk(tmp_path, fused):
    line = Spoilt(set(range(5, 100)), fused)
    remedy = r"of 4 steps in a row, up to step 9, was not finite; lower training.learning_rate"
    with pytest.raises(ValueError, match=remedy):
        fit(line, Points(), tmp_path, FittingConfig(max_steps=100, log_every=3, max_skipped=3), "nearness")
    assert load_file(tmp_path / "skipped_batch.safetensors")["batch.0"].shape == (8, 2)


@pytest.mark.parametrize("log_every", [1, 1000])
def test_a_learning_rate_beyond_reason_never_ends_as_a_success(tiny_words, tmp_path, log_every):
    words = ["training.learning_rate=1e30", "training.max_steps=8", f"training.log_every={log_every}"]
    with pytest.raises(SystemExit, match=r"steps in a row, .* was not finite"):
        train.main(tiny_words(tmp_path, *words))
    assert not (tmp_path / "tiny/export").exists()
    assert not (tmp_path / "tiny/summary.json").exists()


class Interrupted(Line):
    """Gets a signal in one of its steps."""

    def __init__(self, number, at):
        super().__init__()
        self.number, self.at = number, at

    def training_step(self, batch, index):
        if self.global_step == self.at:
            self.at = None  # once
            os.kill(os.getpid(), self.number)
        return super().training_step(batch, index)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [13, 19], ids=["between", "at a validation"])
def test_a_signal_ends_a_run_behind_a_whole_step_and_it_goes_on(tmp_path, number, at):
    settings = FittingConfig(max_steps=60, accumulate=2)
    before = signal.getsignal(number)
    whole = fit(Line(), Points(), tmp_path / "whole", settings, "nearness")
    with pytest.raises(SystemExit) as caught:
        fit(Interrupted(number, at), Points(), tmp_path / "stopped", settings, "nearness")
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    last = tmp_path / "stopped/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == at + 1 + (at == 19)
    resumed = Line()
    again = fit(resumed, Points(), tmp_path / "stopped", settings, "nearness")
    assert resumed.seen[0] == at + 1 + (at == 19)
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())
    ends = (
        read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"]
        for folder in (tmp_path / "whole", last.parent.parent)
    )
    assert all(torch.equal(one, other) for one, other in zip(*(end.values() for end in ends), strict=True))


def test_seconds_count_every_part_of_a_run(tmp_path):
    settings = FittingConfig(max_steps=20)
    with pytest.raises(SystemExit):
        fit(Interrupted(signal.SIGTERM, 5), Points(), tmp_path, settings, "nearness", prepared=100.0)
    last = tmp_path / "checkpoints/last.ckpt"
    first = read_checkpoint(last)["seconds"]
    fit(Line(), Points(), tmp_path, settings, "nearness", prepared=20.0)
    second = read_checkpoint(last)["seconds"]
    assert (first["prepare"], second["prepare"]) == (100.0, 120.0)
    assert 0 < first["train"] < second["train"]


def test_progress_is_one_line_that_counts_steps(tmp_path, capsys):
    fit(Line(), Points(), tmp_path, FittingConfig(max_steps=6, accumulate=2, log_every=1), "nearness")
    said = "".join(capsys.readouterr())
    assert "6/6" in said
    assert "v_num" not in said
    assert "Validation" not in said
    assert not [line for line in said.splitlines() if line and not line.startswith("training")]


class Counting(Line):
    """Counts what it has seen."""

    def __init__(self):
        super().__init__()
        self.amounts = Counter()

    def training_step(self, batch, index):
        self.amounts.update(tokens=8)
        return super().training_step(batch, index)


def test_progress_tells_speed_memory_and_the_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("drafter.training.logs.peak_memory", lambda device: 1.5e9)
    monkeypatch.setattr("drafter.training.logs.time.perf_counter", count(0.0, 2.0).__next__)
    fit(Counting(), Points(), tmp_path, FittingConfig(max_steps=6, accumulate=2, log_every=1), "nearness")
    said = "".join(capsys.readouterr())
    assert re.search(r"6/6 \[\d\d:\d\d<\d\d:\d\d", said)
    assert re.search(r"tokens/s=\d", said)
    assert "memory=1.5 GB" in said


def test_a_profiler_watches_the_steps_that_it_is_told_to(tmp_path):
    fit(Line(), Points(), tmp_path, FittingConfig(max_steps=8, accumulate=2, profile=[3, 4]), "nearness")
    trace = json.loads((tmp_path / "profile-0.json").read_text())
    names = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "cpu_op"]
    assert names.count("aten::linear") == 2 * 2
    with pytest.raises(ValueError, match=r"training\.profile=\[4, 3\]: write the first and the last step"):
        FittingConfig(profile=[4, 3])


def test_a_logger_that_is_not_installed_ends_in_one_line(tmp_path, monkeypatch):
    def missing(**_):
        raise ModuleNotFoundError("No module named 'wandb'", name="wandb")

    monkeypatch.setattr("drafter.training.logs.WandbLogger", missing)
    settings = FittingConfig(max_steps=2, loggers=["wandb"])
    with pytest.raises(ValueError, match=r"training\.loggers='wandb': wandb is not installed; pip install wandb"):
        fit(Line(), Points(), tmp_path, settings, "nearness")


def test_without_loggers_there_is_the_csv_file_alone(tmp_path):
    fit(Line(), Points(), tmp_path, FittingConfig(max_steps=10, log_every=1, loggers=[]), "nearness")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics"]
    assert "nearness" in (tmp_path / "metrics/from_00000000/metrics.csv").read_text()
