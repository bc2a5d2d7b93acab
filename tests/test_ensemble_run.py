"""`system: ensemble`: from a recipe to a head and a map, over a kill, and what is refused before work."""

import csv
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import make_prompts, make_relative, make_verifier
from safetensors.torch import load_file

from drafter.__main__ import main
from drafter.config import EnsembleConfig, load_as
from drafter.evaluation.decoding import Decoding
from drafter.models import CausalDrafter
from drafter.models.ensemble_head import EnsembleHead, HeadConfig
from drafter.training.ensemble.module import EnsembleModule
from drafter.training.ensemble.policy import budget_loss
from drafter.training.ensemble.start import fit_budget
from drafter.training.runs import ensemble, run
from drafter.verifier import Verifier

RECIPE = """
name: tiny
system: ensemble
verifier: {source: tiny-llama}
ensemble: {draft_length: 2, rollouts: 2, updates: 2, start_budget: 0.3}
tasks: {kind: arithmetic, count: 24, validation: 2, test: 2, test_seeds: 1, timed: 0, max_new_tokens: 6}
reward: {kind: log_likelihood}
training: {max_steps: 6, rows: 2, learning_rate: 5.0e-2, precision: float32, log_every: 1, validate_every: 3}
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A drafter on disk."""
    folder = tmp_path_factory.mktemp("relative")
    relative = make_relative("llama")
    relative.model.save_pretrained(folder)
    relative.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def words(pair, tmp_path_factory):
    """A function: where to write, and overrides -> a resolved recipe."""
    recipe = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    recipe.write_text(RECIPE)
    return lambda output, *more: load_as(
        EnsembleConfig, recipe, [f"output={output}", f"ensemble.drafter={pair}", *more]
    )


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    output = tmp_path_factory.mktemp("finished")
    run(words(output))
    return output / "tiny"


def test_a_run_leaves_a_head_a_map_and_a_summary(finished):
    head = EnsembleHead.load(finished / "head")
    assert head.linear.weight.abs().max() > 0
    assert head.config.task == "arithmetic, log_likelihood"
    assert head.config.training["name"] == "tiny"
    with (finished / "frontier.csv").open() as file:
        lines = {line["way"]: line for line in csv.DictReader(file)}
    assert {"verifier alone", "block verification", "static 0.0", "dynamic head", "drafter alone"} <= set(lines)
    assert float(lines["static 0.0"]["acceptance"]) == 1
    assert float(lines["speculative sampling"]["variation"]) == 0
    assert 0 < float(lines["dynamic head"]["variation"]) < 1
    page = (finished / "report.html").read_text()
    assert page.count("<svg") == 5  # reward and distance; three curves
    over = summary_of(finished)["reward_over_static"]
    told = "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**over)
    assert f"head: log_likelihood over the static ensembles at its tokens per cycle {told}" in page
    assert "The control to beat: " in page
    summary = summary_of(finished)
    assert summary["steps"] <= 6
    assert summary["reward_over_static"]["seeds"] == 1
    assert len((finished / "ways.jsonl").read_text().splitlines()) == 1 + len(lines)
    found = {name for line in records(finished) for name in line}
    assert {"reward", "tokens_per_cycle", "train/policy", "train/acceptance", "objective_held_out"} <= found


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


@pytest.mark.parametrize("after", [1, 4])
def test_a_killed_run_ends_as_an_undisturbed_one(words, finished, tmp_path, monkeypatch, after):
    """Killed within the updates on one batch of roll-outs, and before one."""
    step = EnsembleModule.training_step

    def killed(module, batch, index):
        if int(batch) == after:
            raise KeyError("killed")
        return step(module, batch, index)

    untrained = []
    validate = EnsembleModule.validate
    monkeypatch.setattr(EnsembleModule, "validate", lambda self: untrained.append(validate(self)) or untrained[-1])
    with monkeypatch.context() as patch:
        patch.setattr(EnsembleModule, "training_step", killed)
        with pytest.raises(KeyError):
            run(words(tmp_path))
    began = len(untrained)
    assert (tmp_path / "tiny/checkpoints/last.ckpt").is_file()
    monkeypatch.setattr(ensemble, "draw_map", lambda *_: (_ for _ in ()).throw(KeyError("far enough")))
    with pytest.raises(KeyError, match="far enough"):
        run(words(tmp_path))
    one, other = (load_file(folder / "head/ensemble_head.safetensors") for folder in (finished, tmp_path / "tiny"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert records(finished) == records(tmp_path / "tiny")
    assert untrained[0] == untrained[began]  # of the head before training, whenever it is told


def records(folder):
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in line.items() if value} for line in csv.DictReader(file)]


def test_decoding_by_the_head(finished, pair):
    verifier, drafter = make_verifier("llama"), CausalDrafter(make_relative("llama"))
    rule = f"dynamic_ensemble:head={finished / 'head'}"
    for temperature in (0.0, 1.0):
        (answer,) = Decoding(temperature, rule=rule).decoder(verifier, drafter, 2)(make_prompts()[:1], 8)
        assert len(answer.token_ids) == 8


def test_frontier_draws_the_map_of_a_pair(finished, pair, tmp_path, capsys, drawn):
    sizes = ["--count", "2", "--seeds", "1", "--max-new-tokens", "4", "--timed", "2", "--draft-length", "2"]
    other = tmp_path / "other/head"
    made = EnsembleHead.load(finished / "head").config
    EnsembleHead(replace(made, training=made.training | {"name": "other", "seed": 1})).save(other)
    rest = ["--reward", "log_likelihood", "--head", str(finished / "head"), str(other), "--out", str(tmp_path)]
    rest += ["--ways", "verifier alone", "block verification", "budget 0.3", "drafter alone"]
    words = ["frontier", str(pair), "--verifier", "tiny-llama", *sizes, *rest]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| dynamic tiny " in said
    assert "tiny, other: log_likelihood over the static ensembles at its tokens per cycle" in said
    with (tmp_path / "gains.csv").open() as file:
        told = {line["way"]: line for line in csv.DictReader(file)}
    assert list(told) == ["tiny, other", "tiny", "other", "budget 0.3"]
    assert float(told["tiny"]["low"]) <= float(told["tiny"]["value"]) <= float(told["tiny"]["high"])
    theory = json.loads((tmp_path / "theory.json").read_text())
    assert theory["draft_length"] == 2
    assert theory["speedup"] > 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "theory at alpha" in page
    with (tmp_path / "frontier.csv").open() as file:
        rates = {line["way"]: float(line["tokens_per_second"]) for line in csv.DictReader(file)}
    assert set(rates) == {f"static {weight}" for weight in (0.75, 0.5, 0.25, 0.0)} | {
        *("speculative sampling", "dynamic tiny", "dynamic other"),
        *("verifier alone", "block verification", "budget 0.3", "drafter alone"),
    }  # NaN where an answer ended at once
    assert min(rates["verifier alone"], rates["block verification"]) > 0
    with pytest.raises(SystemExit, match=r"out='.*': holds a map of other setting; name another folder"):
        main([*words, "--seeds", "2"])


def test_a_run_makes_its_own_drafter_once(words, tmp_path, monkeypatch):
    sizes = ["pair.layers=3", "pair.answers=1", "pair.sequence_length=32", "pair.training.max_steps=4"]
    more = ["pair.training.precision=float32", "pair.training.rows=2", "ensemble.drafter=null"]
    monkeypatch.setattr(ensemble, "draw_map", lambda *_: (_ for _ in ()).throw(KeyError("far enough")))
    with pytest.raises(KeyError, match="far enough"):
        run(words(tmp_path, *sizes, *more))
    export = tmp_path / "tiny/pair/export"
    first = (export / "model.safetensors").read_bytes()
    checkpoints = tmp_path / "tiny/pair/checkpoints"
    assert list(checkpoints.iterdir()) == []
    (checkpoints / "last.ckpt").touch()  # a kill came before it was removed
    made, verifier = Verifier.load(str(export)), make_verifier("llama")
    assert made.num_layers == 3
    assert torch.equal(made.head, verifier.head)
    assert not torch.equal(made.layers[0].mlp.up_proj.weight, verifier.layers[0].mlp.up_proj.weight)
    with pytest.raises(KeyError, match="far enough"):
        run(words(tmp_path, *sizes, *more))
    assert (export / "model.safetensors").read_bytes() == first
    assert list(checkpoints.iterdir()) == []
    with pytest.raises(ValueError, match=r"holds a run of another recipe \(other pair\.layers\)"):
        run(words(tmp_path, *sizes, *more, "pair.layers=2"))


def test_a_supervised_start_comes_near_its_budget(words, tmp_path):
    config = words(tmp_path, "ensemble.start_budget=0.2", "tasks.max_new_tokens=10", "training.rows=4")
    verifier, reward = ensemble.load(config, tmp_path)
    drafter = CausalDrafter(make_relative("llama"))
    training, validation, _ = ensemble.tasks_of(config)
    head = EnsembleHead(ensemble.describe(config, verifier, drafter))
    module = EnsembleModule(config, verifier, drafter, head, training, validation, reward)
    constant = EnsembleHead(head.config, 0.5)
    _, weighed, _ = module.answer(training[:3], constant, 5)
    before = budget_loss(constant(weighed.drafter_hidden, weighed.verifier_hidden).double(), weighed.variation, 0.2)
    fit_budget(module, 0.2)
    with torch.no_grad():
        after = budget_loss(head(weighed.drafter_hidden, weighed.verifier_hidden).double(), weighed.variation, 0.2)
    assert after < 0.7 * before  # on other tasks than it was fitted to
    assert torch.equal(module.behaviour.linear.weight, head.linear.weight)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ensemble.rollouts=0", "ensemble.rollouts=0: must be >= 1"),
        ("ensemble.acceptance_weight=-1", r"ensemble.acceptance_weight=-1.0: must be >= 0"),
        ("ensemble.start_weight=1", r"ensemble.start_weight=1.0: must lie in \(0, 1\)"),
        ("ensemble.start_budget=1", r"ensemble.start_budget=1.0: must lie in \(0, 1\), or be null"),
        ("training.accumulate=2", "training.accumulate=2: roll-outs are batches already"),
        ("training.devices=2", "^[^.]*training.devices='2': one process answers the tasks"),
        ("training.nodes=2", "training.nodes=2: one process"),
        ("pair.training.devices=2", "pair.training.devices='2': one process"),
        (
            "tasks.max_new_tokens=2040",
            "tasks.max_new_tokens=2040: a task has .* tokens, the verifier's context is 2048",
        ),
        ("tasks.test=0", "tasks.test=0: must be >= 1"),
        ("losses.chain_reward.weight=1", "losses: unknown key"),
        (
            "tasks.kind=products",
            "tasks.kind='products': choose one of arithmetic, sums, worded_sums, doctests, explanations, or name a",
        ),
        ("tasks.count=2", "tasks.count=2: gives .* to test; ask for more"),
        ("reward.kind=bleu", "reward='bleu': no such reward"),
        ("reward.seconds=0", "sandbox.seconds=0"),
        ("ensemble.drafter=nowhere", "drafter='nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(words, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        run(words(tmp_path, override))
    assert not (tmp_path / "tiny/checkpoints").exists()


def test_a_head_of_another_pair_is_refused(finished, tmp_path):
    verifier, drafter = make_verifier("llama"), CausalDrafter(make_relative("llama"))
    config = json.loads((finished / "head/ensemble_head.json").read_text()) | {"drafter_width": 3}
    EnsembleHead(HeadConfig(**config)).save(tmp_path)
    for head, message in (
        (f":head={tmp_path}", "drafter_width=3, here it is 64"),
        ("", "name the head that weighs, dynamic_ensemble:head=DIR"),
        (":head=nowhere", r"head='nowhere': holds no ensemble_head.json"),
    ):
        with pytest.raises(ValueError, match=message):
            Decoding(1.0, rule=f"dynamic_ensemble{head}").decoder(verifier, drafter, 2)(make_prompts()[:1], 8)


@pytest.mark.parametrize("first", [[1.0, 1.0], [0.0, 1.0]], ids=["all the same", "different"])
def test_one_unit_measures_every_validation(first):
    """That of the rewards before training, even where it is 0: what keeps more drafts must not win by another unit."""
    module = SimpleNamespace(
        config=load_as(EnsembleConfig, "diversed_quickstart"), head=None, held_out=[], spread=torch.tensor(math.nan)
    )
    weight, rewards = torch.full((4,), 0.5).double(), [first, [0.0, 0.0], [0.0, 1.0]]
    weighed = SimpleNamespace(weight=weight, variation=weight)
    module.answer = lambda *_: ([], weighed, torch.tensor(rewards.pop(0)).double())
    found = [EnsembleModule.validate(module)["objective_held_out"] for _ in range(3)]
    unit = 0.0 if first[0] == first[1] else 0.5
    kept = module.config.ensemble.acceptance_weight * unit * 1.5  # of four drafts to two answers, three quarters
    assert found == pytest.approx([sum(first) / 2 + kept, kept, 0.5 + kept])
