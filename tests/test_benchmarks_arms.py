"""What arms gain by how drafts are used: walks of kept weights are the ablation's own, and chosen lengths add up."""

import json
import sys

import pytest
import torch
from conftest import ROOT
from tiny_run import write_answers

from drafter.ablation import tables
from drafter.ablation.runner import drop_weights, read_result, results, run_all
from drafter.ablation.spec import load_ablation
from drafter.decode.costs import Survival
from drafter.evaluation.slots import Observed
from drafter.files import write_csv

sys.path.append(str(ROOT / "benchmarks"))
import arms_by_draft

SMALL = ["training.max_steps=3", "training.validate_every=3", "data.validation_rows=3", "data.test_rows=3"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A finished ablation whose runs kept their weights."""
    folder = tmp_path_factory.mktemp("arms")
    answers = write_answers(folder, times=4)
    said = {"base": str(ROOT / "recipes/tiny.yaml"), "baseline": "uniform", "output": str(folder / "out")} | {
        "arms": {"uniform": ["losses.decayed_ce.decay_slots=null"], "full": []},
        "overrides": [*SMALL, f"data.answers={answers}"],
        "keep_checkpoints": True,
    }
    path = folder / "ablation.yaml"
    path.write_text(json.dumps(said))
    spec = load_ablation(path)
    run_all(spec)
    tables.write(spec, results(spec))
    return path, spec


def test_drafts_of_full_length_are_walked_as_the_ablation_walks_them(kept):
    path, spec = kept
    found = list(arms_by_draft.walk_all(str(path), []))
    slots = spec.base_config().drafter.block_size - 1
    for arm, seed in spec.runs():
        own = [one for one in found if (one["arm"], one["drafts"]) == (arm, f"{slots} in a row")]
        known = read_result(spec.config(arm, seed))["suites"]["held_out"]
        assert [(one["emitted"], one["cycles"]) for one in own] == [(one["emitted"], one["cycles"]) for one in known]
    write_csv(spec.directory / arms_by_draft.FILE, found)
    table = arms_by_draft.report(spec.directory)
    assert table.splitlines()[0] == "| drafts | `uniform` | `full` |"
    assert {line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]} == {one["drafts"] for one in found}


def test_kept_weights_stay_whoever_starts_it_again(kept):
    _, spec = kept
    for arm, seed in spec.runs():
        config = spec.config(arm, seed)
        drop_weights(config)
        assert sorted(path.name for path in (config.directory / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_arms_that_differ_in_one_way_gain_in_that_way_alone():
    ways = {"3 in a row": 12, "a tree of 7": 6}
    records = [
        {"arm": arm, "seed": seed, "suite": "s", "prompt": prompt, "drafts": way, "emitted": 12, "cycles": cycles}
        for arm in ("uniform", "full")
        for seed in (0, 1)
        for prompt in (0, 1)
        for way, cycles in ((way, n if arm == "uniform" or way != "a tree of 7" else n / 2) for way, n in ways.items())
    ]
    strings = [{key: str(value) for key, value in one.items()} for one in records]
    same, trees = ([one for one in strings if one["drafts"] == way] for way in ways)
    assert arms_by_draft.gain(same, "full", "uniform") == "+0.0 % [+0.0, +0.0]"
    assert arms_by_draft.gain(trees, "full", "uniform") == "+100.0 % [+100.0, +100.0]"


def test_a_sure_drafter_drafts_whole_blocks_and_an_unsure_one_nothing():
    anchors, slots = 6, 3

    def seen(confidence):
        shape = (anchors, slots)
        filled = dict.fromkeys(Observed.__dataclass_fields__, torch.zeros(shape))
        return Observed(**filled | {"confidence": torch.full(shape, confidence)})

    whole = arms_by_draft.walk_chosen(seen(1.0), [3] * anchors, Survival())
    none = arms_by_draft.walk_chosen(seen(0.0), [3] * anchors, Survival())
    assert whole == (6, pytest.approx(2 * (1 / 8 + 1) + (3 + 1) / 50))  # two tokens are left to the second cycle
    assert none == (6, 6 * (1 / 8 + 1))
