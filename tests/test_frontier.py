"""The map of what relaxing costs: its figures against their definitions."""

import math

import numpy
import pytest
import torch
from conftest import make_prompts, make_relative, make_verifier

from drafter.decode import SpeculativeDecoder
from drafter.decode.sampling import Law
from drafter.evaluation import frontier
from drafter.evaluation.frontier.gains import _interpolate
from drafter.evaluation.frontier.measuring import distance_along, distinct
from drafter.evaluation.frontier.ways import EXACT, RELAXED
from drafter.evaluation.rewards import Task, make_reward
from drafter.models import CausalDrafter
from drafter.models.ensemble_head import EnsembleHead, HeadConfig


def a_point(name, emitted, reward, rule="static_ensemble:verifier_weight=0.5"):
    """Of 2 seeds and 3 prompts; 4 cycles each."""
    ones = torch.ones(2, 3, dtype=torch.float64)
    noise = torch.arange(6, dtype=torch.float64).view(2, 3).sin() / 50
    counts = {"emitted": 4 * (emitted + noise), "cycles": 4 * ones, "reward": reward + noise.flip(1), "answers": ones}
    counts |= {"accepted": 2 * ones, "judged": 4 * ones, "variation": ones, "tokens": 8 * ones}
    return frontier.Point(frontier.Way(name, RELAXED, rule), counts, 0.5)


def test_a_point_on_the_line_gains_nothing_and_one_above_it_does():
    line = [a_point("a", 1.0, 0.9), a_point("b", 2.0, 0.7), a_point("c", 4.0, 0.1)]
    same = frontier.gain_over(line, line[1])
    assert same.value == pytest.approx(0, abs=1e-12)
    between = frontier.gain_over(line, a_point("d", 3.0, 0.4))
    assert between.value == pytest.approx(0, abs=1e-9)
    above = frontier.gain_over(line, a_point("e", 3.0, 0.6))
    assert above.value == pytest.approx(0.2, abs=1e-9)
    assert above.above_zero
    beyond = frontier.gain_over(line, a_point("f", 9.0, 0.3))
    assert beyond.value == pytest.approx(0.2, abs=1e-9)
    assert frontier.gain_over(line[::-1], a_point("e", 3.0, 0.6)).value == pytest.approx(above.value)


def test_heads_are_averaged_and_drawn():
    line = [a_point("a", 1.0, 0.9), a_point("b", 3.0, 0.5)]
    heads = [a_point(str(gain), 2.0, 0.7 + gain) for gain in (0.1, 0.2, 0.6)]
    alone, together = [frontier.gain_over(line, head) for head in heads], frontier.gain_over(line, *heads)
    assert together.value == pytest.approx(sum(one.value for one in alone) / 3)
    assert together.low == pytest.approx(
        0.1, abs=0.02
    )  # of three heads two are drawn, one ninth of draws the least twice
    assert together.high == pytest.approx(0.6, abs=0.02)
    twins = frontier.gain_over(line, heads[1], heads[1])
    assert (twins.low, twins.high) == pytest.approx((alone[1].low, alone[1].high))


def test_gains_are_compared_draw_by_draw():
    line = [a_point("a", 1.0, 0.9), a_point("b", 3.0, 0.5)]
    heads, other = [a_point(str(gain), 2.0, 0.7 + gain) for gain in (0.1, 0.2)], a_point("o", 1.5, 0.85)
    whole = frontier.gain_over(line, *heads)
    both = frontier.gain_over(line, *heads, beside=other)
    assert both.value == pytest.approx(whole.value - frontier.gain_over(line, other).value)
    itself = frontier.gain_over(line, other, beside=other)
    assert max(map(abs, (itself.value, itself.low, itself.high))) < 1e-12
    assert frontier.gain_over(line, heads[1], beside=heads[0]).low == pytest.approx(0.1, abs=1e-9)


def test_heads_of_one_recipe_are_a_family():
    def made(name, seed, **training):
        return HeadConfig(2, 2, training={"name": name, "seed": seed, "output": name, "system": "ensemble", **training})

    heads = {"a": made("a", 0), "b": made("b", 1), "other": made("other", 0, clip=0.1), "c": made("c", 2)}
    heads |= {"bare": HeadConfig(2, 2), "as bare": HeadConfig(2, 2)}  # nothing is known of them
    assert frontier.families(heads) == [["a", "b", "c"]]
    line = [a_point("x", 1.0, 0.9), a_point("y", 3.0, 0.5)]
    points = [a_point(f"dynamic {name}", 2.0, 0.8, "dynamic_ensemble:head=x") for name in heads]
    rule = a_point("lenient 0.5", 2.0, 0.8, "lenient:lenience=0.5")
    gains = frontier.gains([*line, *points, rule], heads)
    assert list(gains) == ["a, b, c", *heads, "lenient 0.5"]
    found = frontier.findings(points, "reward", gains)
    assert len(found) == len(gains)
    assert all("reward over the static ensembles at its tokens per cycle +0.100 [+0." in one for one in found)


@pytest.mark.parametrize("seed", range(4))
def test_lines_are_read_as_numpy_reads_them(seed):
    generator = numpy.random.default_rng(seed)
    at, worth, where = generator.random((5, 4)), generator.random((5, 4)), 1.4 * generator.random(5) - 0.2
    got = _interpolate(*(torch.tensor(one) for one in (at, worth, where[:, None])))
    for row in range(5):
        order = numpy.argsort(at[row])
        expected = numpy.interp(where[row], at[row][order], worth[row][order])
        assert got[row].item() == pytest.approx(expected, abs=1e-12)


def test_figures_are_ratios_of_sums():
    point = a_point("a", 3.0, 0.4)
    figures = point.figures()
    assert figures["acceptance"] == 0.5
    assert figures["variation"] == pytest.approx(1 / 8)
    assert figures["tokens_per_cycle"] == pytest.approx((point.counts["emitted"].sum() / 24).item())
    assert figures["tokens_per_cycle_low"] < figures["tokens_per_cycle"] < figures["tokens_per_cycle_high"]
    assert point.line()["acceptance"].startswith("0.500 [")


def test_different_pairs_over_all_pairs():
    assert distinct([[1, 2, 1, 2], [2, 1]], 2) == 2 / 4
    assert math.isnan(distinct([[1]], 2))


@pytest.mark.parametrize("top_p", [1.0, 0.6])
def test_the_distance_of_who_writes_alone(top_p):
    verifier, other = make_verifier("llama"), make_relative("llama")
    prompt = make_prompts()[0]
    (answer,) = SpeculativeDecoder(other).generate([prompt], 6, 0.9, top_p, seed=1)
    for writer in (verifier, other):
        expected = 0.0
        for at in range(len(answer.token_ids)):
            laws = []
            for model, how in ((verifier, Law(0.9)), (writer, Law(0.9, top_p))):
                with model.plain_attention() as plain, torch.no_grad():
                    laws.append(how(plain(torch.tensor([prompt + answer.token_ids[:at]])).logits[0, -1]).double())
            expected += ((laws[0] - laws[1]).abs().sum() / 2).item()
        got = distance_along(verifier, writer, Law(0.9, top_p), prompt, answer)
        assert got == pytest.approx(expected, abs=1e-4)
        assert (got < 1e-6) == (writer is verifier and top_p == 1)


def test_ways_measured_on_the_same_tasks():
    verifier, drafter = make_verifier("llama"), CausalDrafter(make_relative("llama"), 3)
    tasks = [Task(str(number), f"Number {number}?") for number in range(4)]
    names = ("verifier alone", "speculative sampling", "static 0.25", "static 0.0", "verifier, top-p 0.7")
    ways = [way for way in frontier.usual_ways(drafter) if way.name in names]
    setting = frontier.Setting(10, seeds=2, timed=0, batch_size=3)
    reward = make_reward("log_likelihood", verifier)
    points = {one.way.name: one for one in frontier.measure(verifier, drafter, tasks, reward, ways, setting)}
    assert list(points) == list(names)
    assert all(one.counts["reward"].shape == (2, 4) for one in points.values())
    assert points["verifier alone"].tokens_per_cycle.value == 1
    assert points["verifier alone"].variation.value == points["speculative sampling"].variation.value == 0
    assert points["static 0.0"].acceptance.value == 1
    kept = [points[name].acceptance.value for name in ("speculative sampling", "static 0.25", "static 0.0")]
    assert kept == sorted(kept)
    assert 0 < points["static 0.25"].variation.value < points["static 0.0"].variation.value < 1
    assert points["verifier, top-p 0.7"].variation.value > 0.1
    assert points["speculative sampling"].tokens_per_second is None


def a_setting(**changed):
    return frontier.Setting(**{"max_new_tokens": 5, "seeds": 2, "timed": 0, "batch_size": 3} | changed)


def test_ways_that_are_kept_answer_once(tmp_path, monkeypatch):
    verifier, drafter = make_verifier("llama"), CausalDrafter(make_relative("llama"), 3)
    head = EnsembleHead(HeadConfig(64, 64))
    head.save(tmp_path / "head")
    tasks = [Task(f"number {number}", f"Number {number}?") for number in range(2)]
    names = ("speculative sampling", "static 0.25", "dynamic mine")
    ways = [way for way in frontier.usual_ways(drafter, {"mine": str(tmp_path / "head")}) if way.name in names]
    reward, answered, watched = make_reward("log_likelihood", verifier), [], frontier.Way.watched

    def counting(way, *rest):
        answered.append(way.name)
        return watched(way, *rest)

    def draw(ways, **changed):
        kept = frontier.Kept(tmp_path / "ways.jsonl", tasks, a_setting(**changed), verifier="this")
        return list(frontier.measure(verifier, drafter, tasks, reward, ways, a_setting(), kept))

    monkeypatch.setattr(frontier.Way, "watched", counting)
    draw(ways[:2])  # as far as a killed one came
    whole = draw(ways)
    assert answered == [names[0]] * 2 + [names[1]] * 2 + [names[2]] * 2
    again = draw(ways, timed=3)
    assert len(answered) == 6
    for one, other in zip(whole, again, strict=True):
        assert one.figures() == other.figures()
        assert frontier.gain_over(whole[:2], one) == frontier.gain_over(again[:2], other)
    torch.nn.init.constant_(head.linear.bias, -1.0)
    head.save(tmp_path / "head")
    draw(ways)
    assert answered[6:] == [names[2]] * 2  # the head's weights are others
    with pytest.raises(ValueError, match=r"out='.*': holds a map of other setting; name another folder"):
        draw(ways, seeds=3)


def test_ways_are_chosen_by_name():
    ways = frontier.usual_ways(CausalDrafter(make_relative("llama"), 3), {"mine": "head"})
    line = ["speculative sampling", "static 0.75", "static 0.5", "static 0.25", "static 0.0"]
    assert [way.name for way in frontier.chosen(ways, [])] == [*line, "dynamic mine"]
    found = frontier.chosen(ways, ["budget 0.3", "verifier alone"])
    assert [way.name for way in found] == ["verifier alone", *line, "budget 0.3", "dynamic mine"]
    for name in ("static 0.5", "budget"):
        with pytest.raises(ValueError, match=f"ways='{name}': choose of verifier alone, block verification, lenient"):
            frontier.chosen(ways, [name])


def test_what_is_on_the_line():
    ways = {way.name: way for way in frontier.usual_ways(make_verifier("llama"), {"mine": "head"})}
    on = {name for name, way in ways.items() if way.static}
    assert on == {"speculative sampling", "static 0.75", "static 0.5", "static 0.25", "static 0.0"}
    assert ways["dynamic mine"].rule == "dynamic_ensemble:head=head"
    assert ways["verifier alone"].family == EXACT


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="temperature=0: must be > 0; at 0 rules have no law to compare"):
        frontier.Setting(temperature=0)
    with pytest.raises(ValueError, match="seeds=0"):
        frontier.Setting(seeds=0)
    way = frontier.Way("drafter alone", RELAXED, writer="drafter")
    with pytest.raises(ValueError, match="way='drafter alone': a str writes nothing alone"):
        way.alone(make_verifier("llama"), "a block drafter")
