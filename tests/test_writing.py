"""What was written, judged: against counts by hand and one plain pass of the judge."""

import math

import pytest
import torch
from conftest import ROOT, make_verifier

from drafter.__main__ import main
from drafter.evaluation.writing import Reader, variety, win_rate

PUBLISHED = sorted((ROOT / "recipes").glob("k_forcing_*.yaml"))


def test_variety_by_hand():
    found = variety([[1, 2, 1, 2, 1, 2], [3, 4, 5]])
    assert found.distinct_1 == pytest.approx(5 / 9)
    assert found.distinct_2 == pytest.approx(4 / 7)  # 12 21 34 45
    assert found.distinct_3 == pytest.approx(3 / 5)  # 121 212 345
    assert found.entropy == pytest.approx((math.log(2) + math.log(3)) / 2)
    assert found.repetition == pytest.approx(1 / 3)  # 1212 2121 1212, of the one answer that is long enough


def test_what_never_repeats_has_no_repetition_and_what_only_repeats_no_entropy():
    assert variety([list(range(9))]).repetition == 0
    assert variety([[7] * 9]).entropy == 0


def test_the_judge_counts_its_tokens_behind_the_prompt():
    judge = make_verifier("llama")
    prompts, answers = ["ab", "hello"], ["cde", " world, and more"]
    total = count = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor([judge.tokenizer.encode(prompt + answer)])
        with judge.plain_attention() as model, torch.no_grad():
            law = model(input_ids=ids).logits[0].log_softmax(-1)
        for at in range(len(judge.tokenizer.encode(prompt)), ids.shape[1]):
            total -= float(law[at - 1, ids[0, at]])
            count += 1
    reader = Reader(judge)
    found = [reader.nll(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    assert sum(each for each, _ in found) == pytest.approx(total, rel=1e-4)
    assert sum(each for _, each in found) == count
    assert reader.perplexity(prompts, answers).value == pytest.approx(math.exp(total / count), rel=1e-4)
    assert math.isnan(reader.perplexity(["ab"], [""]).value)


def test_the_interval_of_a_perplexity_lies_between_the_answers_own():
    reader = Reader(make_verifier("llama"))
    prompts, answers = ["q"] * 3, ["abc", "xyz and", "07"]
    own = [reader.perplexity(["q"], [answer]) for answer in answers]
    assert all(one.low == pytest.approx(one.value) == one.high for one in own)
    every = reader.perplexity(prompts, answers)  # 27 draws, the extreme ones of one answer alone
    assert (every.low, every.high) == pytest.approx((min(one.value for one in own), max(one.value for one in own)))
    assert every.low < every.value < every.high


def test_the_likelihood_judge_prefers_what_is_likelier():
    reader = Reader(make_verifier("llama"))
    sums = [reader.nll("q", answer)[0] for answer in ("abc", "xyz")]
    assert reader.prefers("q", "abc", "xyz") == (sums[0] < sums[1])
    assert reader.prefers("q", "xyz", "abc") == (sums[1] < sums[0])


def test_an_answer_that_ends_at_once_wins_nothing():
    reader = Reader(make_verifier("llama"))
    assert not reader.prefers("q", "", "abc")
    assert reader.prefers("q", "abc", "")
    assert win_rate(["q"] * 9, [""] * 9, ["abc"] * 9, reader.prefers).value == 0


def test_a_judge_that_likes_the_first_gives_no_win():
    prompts = ["p"] * 400
    found = win_rate(prompts, ["ours"] * 400, ["theirs"] * 400, lambda prompt, first, second: True)
    assert found.low < 0.5 < found.high


def test_the_same_answer_is_no_win_and_no_loss():
    """A judge that must choose tosses a coin: of 32 answers that were the teacher's own it once preferred 20."""
    prompts, answers = ["p"] * 32, [str(number) for number in range(32)]
    assert win_rate(prompts, answers, answers, lambda *_: pytest.fail("shown to a judge")).value == 0.5
    one = win_rate(prompts, ["better", *answers[1:]], answers, lambda prompt, a, b: a == "better")
    assert one.value == 16.5 / 32


def test_the_interval_of_a_win_rate_is_wilsons():
    prompts = [str(number) for number in range(50)]
    better = set(prompts[:20])
    found = win_rate(prompts, ["ours"] * 50, ["theirs"] * 50, lambda prompt, a, b: (a == "ours") == (prompt in better))
    assert found.value == 0.4
    assert (found.low, found.high) == (pytest.approx(0.2761, abs=1e-4), pytest.approx(0.5382, abs=1e-4))


def test_a_win_rate_by_a_model_that_judges_is_counted_pair_by_pair():
    """The judge is a model by its log-likelihood; whichever answer it is shown first, it likes the same one."""
    reader = Reader(make_verifier("llama"))
    prompts = [f"question {number}" for number in range(12)]
    ours, theirs = [f"{n} it is" for n in range(12)], [f"zq{n}" for n in range(12)]
    wins = 0
    for prompt, one, other in zip(prompts, ours, theirs, strict=True):
        (first, many), (second, few) = (reader.nll(prompt, each) for each in (one, other))
        wins += first / many < second / few
    found = [win_rate(prompts, ours, theirs, reader.prefers, seed) for seed in range(3)]
    assert {one.value for one in found} == {wins / 12}
    assert all(0 <= one.low < wins / 12 + 1e-9 and wins / 12 - 1e-9 < one.high <= 1 for one in found)
    back = win_rate(prompts, theirs, ours, reader.prefers)
    assert back.value == pytest.approx(1 - wins / 12)
    assert (back.low, back.high) == (pytest.approx(1 - found[0].high), pytest.approx(1 - found[0].low))


@pytest.mark.parametrize("recipe", PUBLISHED, ids=lambda path: path.stem)
def test_the_published_runs_are_recipes(recipe, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(recipe), "--dry-run"]) == 0
    assert f"name: {recipe.stem}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
