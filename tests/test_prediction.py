"""Theory beside the decoder: the same counts, and a passes' clock that any drafter has."""

import pytest
from conftest import make_memorising, make_prompts, make_relative, make_verifier

from drafter.decode import Generation
from drafter.decode.sampling import Law
from drafter.evaluation.prediction import Passes, acceptance_rate, predict
from drafter.evaluation.theory import expected_tokens, speedup
from drafter.models import CausalDrafter


def test_drafts_kept_over_drafts_judged():
    one = Generation(emitted=[3, 1, 4, 2], accepted=[2, 0, 3, 2], drafted=[3, 3, 3, 3])  # the last is cut by the end
    assert acceptance_rate([one]) == 7 / (3 + 1 + 3 + 2)
    assert acceptance_rate([]) == 0


def test_no_timed_pass_is_the_first_behind_something_else(monkeypatch):
    passes, seen = Passes(make_verifier("llama"), make_memorising("llama"), 3, [1, 2, 3], Law(1.0)), []
    for name in ("_draft", "_one", "_block"):
        monkeypatch.setattr(passes, name, lambda name=name: seen.append(name))
    monkeypatch.setattr("drafter.evaluation.prediction.timed", lambda _, run: (seen.append("timed"), run()))
    passes.measure()
    assert seen == ["_one", "timed", "_draft", "timed", "_one", "timed", "_block"]


@pytest.mark.parametrize("kind", ["causal", "block"])
def test_a_prediction_is_theory_at_what_was_measured(kind):
    drafter = CausalDrafter(make_relative("llama"), 3) if kind == "causal" else make_memorising("llama")
    found = predict(make_verifier("llama"), drafter, make_prompts()[:2], 12, repeats=1)
    assert found.draft_length == 3
    assert found.tokens == expected_tokens(found.acceptance_rate, 3)
    assert found.speedup == pytest.approx(speedup(found.acceptance_rate, 3, found.cost, verify=found.verify))
    assert found.cost > 0
    assert found.verify > 0
    assert 1 <= found.measured_tokens <= 4
    assert 0 <= found.best_length <= 6
    assert "tokens per cycle (measured" in str(found)
