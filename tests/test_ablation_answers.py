"""Arms that train on other answers, walked along the same held-out ones."""

import json
from pathlib import Path

import pytest
from conftest import make_answers, make_verifier

from drafter import answers
from drafter.ablation import runner
from drafter.ablation.shared import Shared
from drafter.ablation.spec import load_ablation

TINY = Path(__file__).parent.parent / "recipes/tiny.yaml"


@pytest.fixture
def spec(tmp_path):
    """Two arms of one recipe: the base's answers, and the same questions with each answer backwards."""
    rows = [
        {"source": f"{i}", "kind": "t", "prompt": f"Question {i}?", "answer_ids": answer, "stop": "length"}
        for i, answer in enumerate(make_answers("llama") * 3)
    ]
    manifest = {"verifier": make_verifier("llama").fingerprint()}
    answers.write(tmp_path / "base.parquet", rows, manifest)
    backwards = [{**row, "answer_ids": row["answer_ids"][::-1]} for row in rows]
    answers.write(tmp_path / "own.parquet", backwards[:-2], {"answered_by": "authors"})
    said = {
        "base": str(TINY),
        "overrides": [
            "training.max_steps=2",
            "data.validation_rows=3",
            "data.test_rows=3",
            f"data.answers={tmp_path / 'base.parquet'}",
        ],
        "arms": {"base": [], "own": [f"data.answers={tmp_path / 'own.parquet'}"]},
        "baseline": "base",
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "ablation.yaml").write_text(json.dumps(said))
    return load_ablation(tmp_path / "ablation.yaml")


def test_an_arm_may_train_on_other_answers(spec, tmp_path):
    shared = Shared(spec)
    base, own = (shared.training(spec.config(arm, 0)) for arm in ("base", "own"))
    assert base == shared.material.training
    assert [row.answer[::-1] for row in own] == [row.answer for row in base][: len(own)]
    held_out = {row.source for row in [*shared.material.validation, *shared.material.test]}
    assert not held_out & {row.source for row in own}
    runner.run_all(spec)
    found = runner.results(spec)
    assert [one["status"] for one in found] == ["finished"] * 2
    assert len({len(one["suites"]["held_out"]) for one in found}) == 1
    about = found[0]["about"]
    assert about["training rows"].startswith(f"{len(base)}, ")
    assert about[f"training rows of {tmp_path / 'own.parquet'}"].startswith(f"{len(own)}, ")
    rows, manifest = answers.read(tmp_path / "own.parquet")
    answers.write(tmp_path / "own.parquet", rows[1:], manifest)
    with pytest.raises(ValueError, match=r"holds runs that can't be compared with these \(other .*own\.parquet\)"):
        Shared(spec)


def test_an_arm_may_change_nothing_else_of_the_data(tmp_path, spec):
    said = json.loads((tmp_path / "ablation.yaml").read_text())
    said["arms"]["own"] = ["data.max_rows=3"]
    (tmp_path / "ablation.yaml").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"arms\.own='data\.max_rows=3': arms share data; put it into `overrides`"):
        load_ablation(tmp_path / "ablation.yaml")


def test_an_arms_answers_must_be_of_the_verifiers_tokens(spec, tmp_path):
    rows, _ = answers.read(tmp_path / "own.parquet")
    answers.write(tmp_path / "own.parquet", rows, {"verifier": "another"})
    with pytest.raises(ValueError, match=r"own\.parquet': written by another verifier"):
        Shared(spec)


def test_loops_are_cut_in_all_that_is_trained_on_and_walked(spec, tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"prompt": "What?"}\n{"prompt": "Why?"}\n')
    words = ["data.cut_loops=true", "data.max_new_tokens=4", f"suites=[{tmp_path}/asked.jsonl]"]
    whole = Shared(load_ablation(tmp_path / "ablation.yaml", words))
    (asked,) = (tmp_path / "out/answers").glob("*.parquet")
    for path in (asked, tmp_path / "base.parquet", tmp_path / "own.parquet"):
        rows, manifest = answers.read(path)
        answers.write(path, [{**row, "answer_ids": [*row["answer_ids"], 7, 9, 7, 9, 7, 9]} for row in rows], manifest)
    looping = Shared(load_ablation(tmp_path / "ablation.yaml", words))

    def cut(rows):
        return [[*row.answer, 7, 9] for row in rows]

    assert [row.answer for row in looping.suites[words[2][8:-1]]] == cut(whole.suites[words[2][8:-1]])
    for arm in spec.arms:
        before, now = (one.training(spec.config(arm, 0)) for one in (whole, looping))
        assert [row.answer for row in now] == cut(before)
    assert [row.answer for row in looping.material.test] == cut(whole.material.test)
