"""Rewards against their definitions, and the tasks that they score."""

import math
import re
import statistics
import sysconfig
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import make_answers, make_prompts, make_verifier
from hypothesis import given, settings
from hypothesis import strategies as st

from drafter.evaluation.rewards import REWARDS, Answered, Task, check_tasks, make_reward
from drafter.evaluation.rewards.doctests import _candidates, _sound
from drafter.evaluation.rewards.exact_match import exact_match, last_number
from drafter.evaluation.rewards.log_likelihood import LogLikelihood
from drafter.evaluation.rewards.rouge import rouge_2_of
from drafter.evaluation.rewards.sandbox import run
from drafter.evaluation.rewards.tasks import (
    TASKS,
    WORDINGS,
    _documented,
    arithmetic,
    explanations,
    split_tasks,
    worded_sums,
)
from drafter.evaluation.rewards.unit_tests import UnitTests, code_of, program_of
from drafter.sources.standard_library import questions_of

DOUBLE = Task("double", "Write it.", entry="double", signature="def double(x):", check="assert double(3) == 6")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("17 + 25 is 42.", 42),
        ("It is 1,234,567.", 1234567),
        ("Minus: -3", -3),
        ("3.50 dollars", 3.5),
        ("first 7, then 8", 8),
        ("none", None),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == number


def test_exact_match_is_about_the_number():
    task = Task("1", "?", "1,042")
    answers = ["It is 1042.", "1042 or 1043", "", "one thousand", "1042.0"]
    assert exact_match([Answered(task, text) for text in answers]) == [1, 0, 0, 0, 1]


words = st.lists(st.sampled_from(["a", "b", "c"]), max_size=8)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(words, words)
def test_rouge_2_is_f1_of_word_pairs(ours, theirs):
    one, two = ([tuple(each[i : i + 2]) for i in range(len(each) - 1)] for each in (ours, theirs))
    hits, left = 0, Counter(two)
    for pair in one:
        if left[pair] > 0:
            hits, left[pair] = hits + 1, left[pair] - 1
    expected = 0.0
    if hits:
        precision, recall = hits / len(one), hits / len(two)
        expected = 2 * precision * recall / (precision + recall)
    assert rouge_2_of(" ".join(ours), ", ".join(theirs).upper()) == pytest.approx(expected, abs=1e-12)


def test_code_is_found_in_an_answer():
    body = "    return 2 * x"
    whole = f"def double(x):\n{body}"
    for text in (body, "return 2 * x", f"```python\n{body}\n```", f"Sure:\n```python\n{whole}\n```\nDone.", whole):
        assert "def double(x):\n    return 2 * x" in code_of(DOUBLE, text)
        assert UnitTests()([Answered(DOUBLE, text)]) == [1.0]


def test_a_body_keeps_the_separators_inside_of_its_strings():
    body = 'return "one\u2028two\x0cthree"'
    assert code_of(DOUBLE, body).endswith(f"\n    {body}\n")


def test_unit_tests_score_what_runs_right_and_nothing_else():
    bad = ["return x", "return 2 *", "import os\n    os.fork()", "raise SystemExit(0)", "while True: pass", "no code"]
    answers = [Answered(DOUBLE, text) for text in ("return x + x", *bad)]
    assert make_reward("unit_tests", make_verifier("llama"))(answers) == [1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("together", [1, 4])
def test_log_likelihood_is_the_verifiers_own(together):
    verifier = make_verifier("llama")
    answers = [
        Answered(Task("", ""), "", prompt, answer)
        for prompt, answer in zip(make_prompts(), [*make_answers("llama")[:3], [5, 9], [], [7]], strict=True)
    ]
    got = LogLikelihood(verifier, together)(answers)
    for one, value in zip(answers, got, strict=True):
        expected = []
        for at in range(len(one.ids)):
            with verifier.plain_attention() as model, torch.no_grad():
                logits = model(torch.tensor([[*one.prompt_ids, *one.ids[:at]]])).logits[0, -1]
            expected.append(logits.double().log_softmax(-1)[one.ids[at]].item())
        assert value == pytest.approx(math.fsum(expected) / len(expected) if expected else 0.0, abs=2e-4)


def test_rewards_by_name():
    for name in REWARDS:
        assert callable(make_reward(name, make_verifier("llama")))
    with pytest.raises(ValueError, match="reward='bleu': no such reward; choose one of exact_match"):
        make_reward("bleu", make_verifier("llama"))


@pytest.mark.parametrize(
    ("name", "field"), [("exact_match", "reference"), ("rouge_2", "reference"), ("unit_tests", "check")]
)
def test_tasks_that_do_not_fit_are_refused(name, field):
    with pytest.raises(ValueError, match=f"reward='{name}': task 'here' has no `{field}`"):
        make_reward(name, make_verifier("llama"))([Answered(Task("here", "?"), "answer")])


@pytest.fixture
def few_functions(monkeypatch):
    """The beginning of the library stands for all of it."""
    monkeypatch.setattr(
        "drafter.evaluation.rewards.tasks.questions_of", lambda longest: islice(questions_of(longest), 700)
    )
    _documented.cache_clear()
    yield
    _documented.cache_clear()


@pytest.mark.usefixtures("few_functions")
@pytest.mark.parametrize("name", ["arithmetic", "explanations", "worded_sums"])
def test_tasks_are_a_function_of_the_seed_and_split_by_source(name):
    once, again, other = (TASKS[name](60, seed) for seed in (0, 0, 1))
    assert once == again != other
    assert len(once) == 60
    parts = split_tasks(once)
    sources = [{one.source for one in part} for part in parts]
    assert sum(map(len, parts)) == 60
    assert sum(map(len, sources)) == len(set.union(*sources))
    assert all(sources)
    assert len(parts[0]) > len(parts[1]) + len(parts[2])
    for ours, theirs in zip(sources, split_tasks(other), strict=True):  # a source is of one part in every draw
        assert not {one.source for one in theirs} & (set.union(*sources) - ours)


def test_sums_are_right():
    for task in arithmetic(300, 0):
        one, sign, other = task.source.split()
        assert int(task.reference) == (int(one) + int(other) if sign == "+" else int(one) - int(other)) >= 0
    assert len({task.source for task in arithmetic(10**6, 0)}) == 99 * 100
    assert exact_match([Answered(task, f"It is {task.reference}.") for task in arithmetic(5, 0)]) == [1] * 5


def test_worded_sums_are_right_and_each_wording_is_held_out():
    tasks = worded_sums(10**6, 0)
    assert len({task.source for task in tasks}) == len(tasks) == 81 * len(WORDINGS)
    for task in tasks:
        one, other = map(int, re.findall(r"\d+", task.prompt))
        assert int(task.reference) == one + other
    held_out = [task.prompt for task in split_tasks(tasks)[2]]
    assert len(held_out) >= 60
    for wording in WORDINGS:
        pattern = re.escape(wording).replace(r"\{\}", r"\d")
        assert any(re.fullmatch(pattern, prompt) for prompt in held_out)


@pytest.mark.usefixtures("few_functions")
def test_explanations_have_the_author_s_words():
    for task in explanations(20, 0):
        assert task.reference
        assert "```python" in task.prompt


def test_the_library_passes_its_own_examples_and_an_empty_body_does_not(monkeypatch, tmp_path):
    (tmp_path / "statistics.py").write_text(Path(statistics.__file__).read_text())
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    sources = {task.entry: source for task, source in _candidates()}
    tasks = _sound.__wrapped__()[:6]
    assert len(tasks) == 6
    reward = UnitTests()
    assert reward([Answered(task, sources[task.entry]) for task in tasks]) == [1.0] * 6
    assert reward([Answered(task, "pass") for task in tasks]) == [0.0] * 6
    assert not run(program_of(tasks[0], "")).passed  # the library's own does not stand in for a missing one


def test_tasks_without_what_a_reward_compares_with_are_refused_at_once():
    check_tasks("log_likelihood", [Task("a", "b")])
    check_tasks("rouge_2", [Task("a", "b", "c")])
    with pytest.raises(ValueError, match="reward='unit_tests': task 'a' has no `check`; choose tasks that have one"):
        check_tasks("unit_tests", [Task("a", "b", "c")])
