"""A push-forward model against the clock: both sides behind their prefill, in turns, by a clock that the test turns."""

import math

import pytest

from drafter.decode.generation import Generation
from drafter.evaluation import free_running
from drafter.evaluation.free_running import rates


class Machine:
    """Ways of decoding that take a made-up time for what they do, row by row in the prefill, all rows in a pass."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(free_running.time, "perf_counter", lambda: self.now)

    def way(self, name, count, prefill, passes):
        """Gives `count` tokens a pass; `passes` are the seconds of one, call by call."""

        def decode(prompts, limit, *, on_tokens, batch_size, **_):
            assert batch_size == len(prompts)
            seconds = passes[sum(called == name for called in self.calls)]
            self.calls.append(name)
            answers = [Generation() for _ in prompts]
            for row, answer in enumerate(answers):
                self.now += prefill
                answer.token_ids += [0] * min(count, limit)
                on_tokens(row, answer.token_ids)
            while len(answers[0].token_ids) < limit:
                self.now += seconds
                for row, answer in enumerate(answers):
                    new = min(count, limit - len(answer.token_ids))
                    answer.token_ids += [0] * new
                    answer.emitted.append(new)
                    on_tokens(row, [0] * new)
            return answers

        return decode


def test_speed_is_of_what_lies_behind_the_prefill(monkeypatch):
    """Equal passes, and a student that reads a prompt in twice the time: what it reads it is not charged for."""
    machine = Machine(monkeypatch)
    ways = {"teacher": machine.way("teacher", 1, 5.0, [1.0] * 3), "student": machine.way("student", 4, 10.0, [1.0] * 3)}
    found = rates(ways, [[1], [2]], 13, temperature=1.0)
    assert found == {"teacher": (2.0, 1.0), "student": (pytest.approx(2 * 9 / 3), 3.0)}  # the last pass gives one token


def test_ways_take_turns_and_the_first_lap_warms_up(monkeypatch):
    machine = Machine(monkeypatch)
    ways = {"a": machine.way("a", 1, 1.0, [0.1, 4.0, 2.0]), "b": machine.way("b", 2, 1.0, [9.0, 1.0, 3.0])}
    found = rates(ways, [[1]], 5, temperature=1.0)
    assert machine.calls == ["a", "b"] * 3
    assert {name: rate for name, (rate, _) in found.items()} == {"a": 0.5, "b": pytest.approx(1.5)}


def test_answers_that_end_with_the_prefill_have_no_speed(monkeypatch):
    machine = Machine(monkeypatch)
    rate, per_pass = rates({"a": machine.way("a", 4, 1.0, [1.0] * 3)}, [[1]], 4, temperature=1.0)["a"]
    assert math.isnan(rate)
    assert math.isnan(per_pass)
