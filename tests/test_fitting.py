"""Fitting knows no drafter: a line is fitted in two stages, killed and gone on with; a system comes from outside."""

import logging
from dataclasses import dataclass, field

import lightning
import pytest
import torch
from torch.utils.data import TensorDataset

from drafter import config as configs
from drafter.config import SYSTEMS, Config, FittingConfig
from drafter.export.original import weights_of
from drafter.training.batches.loader import loader
from drafter.training.fitting import Batches, fit
from drafter.training.logs import Metrics
from drafter.training.pictures import read_metrics
from drafter.training.runs import RUNS, run

SLOPE = torch.tensor([[2.0], [-1.0]])


class Line(lightning.LightningModule):
    """Least squares; knows how near its slope is."""

    def __init__(self, dies_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.line = torch.nn.Linear(2, 1)
        self.dies_at, self.seen = dies_at, []

    def training_step(self, batch, index):
        if self.global_step == self.dies_at:
            raise InterruptedError
        (points,) = batch
        self.seen.append(self.global_step)
        return (self.line(points) - points @ SLOPE).square().mean()

    def validation_step(self, batch, index):
        self.log("nearness", -(self.line.weight.T - SLOPE).norm().detach())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05)


class Points(Batches):
    steps_per_epoch = 10

    def loader(self, rank, first, last):
        generator = torch.Generator().manual_seed(1)
        return loader(TensorDataset(torch.randn(last, 8, 2, generator=generator)), first, last)


def weights(path):
    return weights_of(torch.load(path, weights_only=True), "line")


def test_float32_is_float32_throughout(tmp_path):
    """On CUDA the default of another program, or of a notebook, may be less; there Lightning asks for a choice, too."""
    torch.set_float32_matmul_precision("medium")
    try:
        fit(Line(), Points(), tmp_path, FittingConfig(max_steps=1), "nearness")
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_killed_fit_goes_on_and_ends_as_an_undisturbed_one(tmp_path):
    settings = FittingConfig(max_steps=60, accumulate=2, log_every=1)
    whole = fit(Line(), Points(), tmp_path / "whole", settings, "nearness")
    with pytest.raises(InterruptedError):
        fit(Line(dies_at=25), Points(), tmp_path / "killed", settings, "nearness")
    resumed = Line()
    again = fit(resumed, Points(), tmp_path / "killed", settings, "nearness")
    assert resumed.seen[0] in range(1, 25)
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())
    assert torch.allclose(weights(whole)["weight"].T, SLOPE, atol=0.5)


@pytest.mark.parametrize(("before", "after", "at"), [(1, 2, 3), (3, 2, 5)])
def test_a_step_ends_where_it_should_whoever_shared_out_those_before(tmp_path, before, after, at):
    """Killed behind an odd number of micro-batches, say, and gone on with by pairs of them."""
    settings = {"max_steps": 8, "log_every": 1, "validate_every": 4, "keep": 1}
    with pytest.raises(InterruptedError):
        fit(Line(dies_at=at), Points(), tmp_path, FittingConfig(accumulate=before, **settings), "nearness")
    resumed = Line()
    fit(resumed, Points(), tmp_path, FittingConfig(accumulate=after, **settings), "nearness")
    assert resumed.seen == [step for step in range(at, 8) for _ in range(after)]
    records = [one for one in read_metrics(Metrics(tmp_path).merged()) if one["nearness"]]
    assert [one["step"] for one in records] == ["3", "7"]


def test_a_stage_that_has_ended_is_not_trained_again(tmp_path):
    settings = FittingConfig(max_steps=10)
    first = fit(Line(), Points(), tmp_path / "stage_1", settings, "nearness")
    idle = Line(dies_at=0)
    assert fit(idle, Points(), tmp_path / "stage_1", settings, "nearness") == first
    second = Line()
    fit(second, Points(), tmp_path / "stage_2", settings, "nearness")
    assert (idle.seen, second.seen[0]) == ([], 0)


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(tmp_path, caplog):
    settings = FittingConfig(max_steps=60, log_every=1)
    whole = fit(Line(), Points(), tmp_path / "whole", settings, "nearness")
    with pytest.raises(InterruptedError):
        fit(Line(dies_at=45), Points(), tmp_path / "killed", settings, "nearness")
    last = tmp_path / "killed/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:100])
    later = tmp_path / "killed/metrics/from_00000050"  # of a start behind the one that broke
    later.mkdir()
    resumed = Line()
    with caplog.at_level(logging.INFO, "drafter"):
        again = fit(resumed, Points(), tmp_path / "killed", settings, "nearness")
    assert f"{last} is damaged" in caplog.text
    assert 20 < resumed.seen[0] <= 40
    assert not later.exists()
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())
    for name in ("last", "previous"):
        last.with_name(f"{name}.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match="its checkpoints are damaged; delete that folder to begin anew"):
        fit(Line(), Points(), tmp_path / "killed", settings, "nearness")


def test_a_run_that_has_ended_may_go_on_to_more_steps(tmp_path):
    shorter, all_of_it = (FittingConfig(max_steps=steps, schedule="constant") for steps in (30, 50))
    whole = fit(Line(), Points(), tmp_path / "whole", all_of_it, "nearness")
    fit(Line(), Points(), tmp_path / "more", shorter, "nearness", more=True)
    longer = Line()
    again = fit(longer, Points(), tmp_path / "more", all_of_it, "nearness")
    assert longer.seen == list(range(30, 50))
    assert all(torch.equal(weights(again)[name], value) for name, value in weights(whole).items())


@dataclass
class LineConfig(Config):
    training: FittingConfig = field(default_factory=FittingConfig)


def train(config):
    """The run of a system from outside the package."""
    best = fit(Line(), Points(), config.directory, config.training, "nearness")
    return {"slope": weights(best)["weight"].flatten().tolist()}


def test_a_system_comes_from_outside_and_is_asked_only_its_own_keys(tmp_path, monkeypatch):
    monkeypatch.setitem(SYSTEMS, "line", LineConfig)
    monkeypatch.setitem(RUNS, "line", __name__)
    recipe = tmp_path / "line.yaml"
    recipe.write_text("name: line\nsystem: line\nverifier: {source: none}\ndata: {answers: none}\n")
    config = configs.load(recipe, ["training.max_steps=4", f"output={tmp_path}"])
    assert len(run(config)["slope"]) == 2
    with pytest.raises(ValueError, match="drafter: unknown key"):
        configs.load(recipe, ["drafter.mask_token_id=2"])
    with pytest.raises(ValueError, match="system='line': not for this; it takes alignment"):
        configs.load_as(configs.AlignmentConfig, recipe)
    with pytest.raises(ValueError, match=r"system='lion': choose among alignment, .*line"):
        configs.load(recipe, ["system=lion"])
