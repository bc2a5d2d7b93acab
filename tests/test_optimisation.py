"""Optimisers and what decays, Muon beside AdamW, averages of weights: against their definitions, and resumed."""

from copy import deepcopy

import naive
import pytest
import torch
from conftest import make_drafter, make_verifier
from test_fitting import Line, Points, weights

from drafter.config import FittingConfig, load
from drafter.export.original import open_original
from drafter.models import BlockDiffusionDrafter
from drafter.training.average import Average
from drafter.training.checkpoints import read_checkpoint
from drafter.training.fitting import fit
from drafter.training.module import DrafterModule, trained_weights
from drafter.training.optimisation import hidden_matrices, learning_rate, optimisation
from drafter.training.runs.alignment import train
from drafter.verifier import tiny


def test_learning_rates_follow_their_schedule():
    def rates(**words):
        settings = FittingConfig(max_steps=40, warmup=0.1, **words)
        return [learning_rate(settings, step) for step in range(41)]

    rise = [0.25, 0.5, 0.75, 1.0]
    for words in ({}, {"schedule": "stable"}, {"schedule": "constant"}):
        assert rates(**words)[:4] == rise
    assert rates()[22] == pytest.approx(0.5)
    assert rates()[40] == pytest.approx(0, abs=1e-9)
    stable = rates(schedule="stable", cooldown=0.25)
    assert stable[4:31] == [1.0] * 27
    assert stable[30:] == pytest.approx([1 - step / 10 for step in range(11)])
    assert rates(schedule="constant")[4:] == [1.0] * 37


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_matrices_decay_and_nothing_else(optimizer):
    """Without a gradient's push, a decaying weight shrinks and any other stays."""
    drafter = make_drafter(make_verifier("llama"), attention_bias=True)
    settings = FittingConfig(optimizer=optimizer, weight_decay=0.1, warmup=0.0)
    made = optimisation(drafter, settings)["optimizer"]
    before = {name: weight.detach().clone() for name, weight in drafter.named_parameters()}
    for weight in drafter.parameters():
        weight.grad = torch.zeros_like(weight)
    made.step()
    for name, weight in drafter.named_parameters():
        share = 1 - settings.learning_rate * 0.1 if weight.dim() == 2 else 1.0
        torch.testing.assert_close(weight.detach(), before[name] * share, rtol=1e-6, atol=1e-7)
        assert weight.dim() == 2 or name.endswith(("norm.weight", ".bias"))
    assert sum(len(group["params"]) for group in made.param_groups) == len(before)


def test_muon_takes_the_matrices_between_hidden_states():
    model, _ = tiny.build("llama")
    taken = {id(each) for each in hidden_matrices(model)}
    for name, weight in model.named_parameters():
        assert (id(weight) in taken) == ("proj" in name)


def test_muons_update_is_an_orthogonal_matrix_of_adamws_size():
    """Of Newton-Schulz's five steps in bfloat16, singular values lie near 1, and the update's mean square is 0.2^2."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(48, 96)
    settings = FittingConfig(optimizer="muon", learning_rate=0.1, warmup=0.0, schedule="constant")
    made, before = optimisation(linear, settings)["optimizer"], linear.weight.detach().clone()
    linear(torch.randn(64, 48)).square().sum().backward()
    gradient = linear.weight.grad.clone()
    made.step()
    update = (before - linear.weight.detach()) / (0.1 * 0.2 * 96**0.5)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    singular = torch.linalg.svdvals(update)
    assert 0.5 < singular.min() <= singular.max() < 1.5
    assert torch.cosine_similarity(update.flatten(), (left @ right).flatten(), dim=0) > 0.97
    assert not torch.equal(linear.bias, torch.zeros(96))


class Deep(Line):
    """A line by two layers, trained as a recipe says, with an average of its weights."""

    def __init__(self, settings, dies_at=None):
        super().__init__(dies_at)
        self.settings = settings
        self.line = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
        self.average, self.path = Average(self.line, 0.9), []

    def optimizer_step(self, *args, **kwargs):
        super().optimizer_step(*args, **kwargs)
        self.average.take(self.line, self.global_step + 1)
        self.path.append(self.line[0].weight.detach().clone())

    def validation_step(self, batch, index):
        self.log("nearness", float(self.global_step))

    def configure_optimizers(self):
        return optimisation(self, self.settings)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_goes_on_bit_for_bit_its_average_too(tmp_path, optimizer):
    settings = FittingConfig(max_steps=40, log_every=1, accumulate=2, optimizer=optimizer, learning_rate=0.02)
    fit(Deep(settings), Points(), tmp_path / "whole", settings, "nearness")
    with pytest.raises(InterruptedError):
        fit(Deep(settings, dies_at=25), Points(), tmp_path / "killed", settings, "nearness")
    fit(Deep(settings), Points(), tmp_path / "killed", settings, "nearness")
    one, other = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("whole", "killed"))
    assert any(name.startswith("average.model") for name in one["state_dict"])
    for name, weight in one["state_dict"].items():
        assert torch.equal(weight, other["state_dict"][name]), name
    assert len(weights(tmp_path / "whole/checkpoints/best.ckpt")) == 4


def test_an_average_is_what_its_formula_says(tmp_path):
    settings = FittingConfig(max_steps=30, accumulate=2, learning_rate=0.05)
    module = Deep(settings)
    begun = module.line[0].weight.detach().clone()
    fit(module, Points(), tmp_path, settings, "nearness")
    assert len(module.path) == 30
    expected = naive.moving_average(begun, module.path, 0.9)
    torch.testing.assert_close(module.average.model[0].weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(module.average.model[0].weight, module.path[-1], atol=1e-3)


def test_an_unknown_optimiser_is_refused():
    with pytest.raises(ValueError, match=r"training\.optimizer='lion': choose adamw or muon"):
        FittingConfig(optimizer="lion")
    embedding = torch.nn.Embedding(4, 2)
    with pytest.raises(ValueError, match=r"training\.optimizer='muon': there is no hidden matrix to train"):
        optimisation(embedding, FittingConfig(optimizer="muon"))


def test_a_run_validates_both_weights_and_leaves_those_that_the_recipe_names(tiny_words, tmp_path, monkeypatch):
    words = ["training.average=0.9", "training.max_steps=4", "training.validate_every=2", "decoding.max_new_tokens=4"]
    recipe, *words = tiny_words(tmp_path, *words)
    config, raw = load(recipe, words), {}
    monkeypatch.setattr(DrafterModule, "on_train_end", lambda one: raw.update(deepcopy(one.drafter.state_dict())))
    train(config)
    state = read_checkpoint(config.directory / "checkpoints/best.ckpt")["state_dict"]
    written = BlockDiffusionDrafter.from_pretrained(config.directory / "export").state_dict()
    again = open_original(config.directory / "checkpoints/best.ckpt")
    for name, weight in written.items():
        assert torch.equal(weight, state[f"average.model.{name}"].bfloat16())
        assert torch.equal(again.tensor(name), state[f"average.model.{name}"])
    assert state.keys() == {f"average.model.{name}" for name in written}  # the others were for going on
    last = trained_weights(read_checkpoint(config.directory / "checkpoints/last.ckpt"))
    assert any(not torch.equal(raw[name], last[name]) for name in written)
    names = (config.directory / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"tokens_per_cycle_held_out", "tokens_per_cycle_held_out_raw"} <= set(names)
    config.training.exported = "raw"
    verifier = make_verifier("llama")
    assert DrafterModule(config, make_drafter(verifier), verifier, []).left == "drafter"
