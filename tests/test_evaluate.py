"""Comparing the decoder with plain decoding: what counts as a mismatch, what a cycle is worth, which length is best."""

import pytest
import torch
from conftest import make_answers, make_memorising, make_prompts, make_verifier

from drafter.decode import Costs, SpeculativeDecoder
from drafter.decode.deciding import Decider
from drafter.evaluation.agreement import compare_greedy, first_difference, margin
from drafter.evaluation.measured import cells, table
from drafter.evaluation.parts import best_draft_length, between, measure_costs
from drafter.evaluation.race import race_plain
from drafter.evaluation.walk import walk_along


@pytest.fixture
def pair():
    return make_verifier("llama"), make_memorising("llama")


@pytest.fixture
def spoil(monkeypatch):
    """A function: let the decoder with drafts emit wrong tokens in its answers to some prompts."""

    def spoil_rows(prompts):
        decide = Decider.decide

        def wrong(self, drafts, *arguments):
            decision = decide(self, drafts, *arguments)
            if drafts.ids.shape[1]:
                rows = [slot for slot, row in enumerate(self.rows) if row and row.index in prompts]
                decision.next_token[rows] = (decision.next_token[rows] + 1) % 288
            return decision

        monkeypatch.setattr(Decider, "decide", wrong)

    return spoil_rows


def test_equal_answers_are_no_mismatch(pair):
    found = compare_greedy(*pair, make_prompts(), 12)
    assert (found.mismatches, found.ties) == (0, 0)
    assert [one.token_ids for one in found.plain] == [one.token_ids for one in found.speculative]
    assert walk_along(found.plain, make_prompts(), *pair).emitted == [one.emitted for one in found.speculative]


@pytest.mark.parametrize("prompts", [[0], [1, 4]], ids=str)
def test_wrong_answers_are_counted_by_prompt(pair, spoil, prompts):
    spoil(prompts)
    found = compare_greedy(*pair, make_prompts(), 12)
    assert (found.mismatches, found.ties) == (len(prompts), 0)


def test_differences_at_a_tie_are_ties(pair, spoil, monkeypatch):
    spoil([0])
    monkeypatch.setattr("drafter.evaluation.agreement.TIE", 1e9)
    found = compare_greedy(*pair, make_prompts(), 12)
    assert (found.mismatches, found.ties) == (0, 1)


def test_margin_is_the_distance_of_the_two_best_logits(pair):
    verifier, _ = pair
    prompt = make_prompts()[1]
    with verifier.plain_attention() as model, torch.no_grad():
        best = model(torch.tensor([prompt])).logits[0, -1].topk(2).values
    assert margin(verifier, prompt) == pytest.approx((best[0] - best[1]).item(), rel=1e-3)


def test_where_answers_part():
    assert first_difference([1, 2], [1, 2]) is None
    assert first_difference([1, 2, 3], [1, 4, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2


def test_the_ideal_speed_up_counts_all_passes():
    costs = Costs(draft=1.0, verify=[10.0, 11.0, 12.0, 13.0])
    assert costs.ideal(2.6, 2) == 2.6 * 10 / (12 + 1)


@pytest.mark.parametrize(
    ("verify", "best"),
    [([10.0, 10.0, 10.0, 10.0], 3), ([10.0, 10.0, 20.0, 30.0], 1), ([10.0, 12.0, 13.0, 30.0], 2)],
    ids=["free", "dear", "between"],
)
def test_the_best_draft_length_weighs_acceptance_and_cost(verify, best):
    leading = [[3, 2, 1, 3, 2, 2, 0, 3, 1, 2, 1, 0, 3, 3, 2, 1, 0]]
    assert best_draft_length(Costs(1.0, verify), leading) == best


def test_costs_are_measured_for_every_width(pair):
    costs = measure_costs(*pair, context=20, repeats=2)
    assert len(costs.verify) == 4
    assert min(costs.verify) > 0 < costs.draft


def test_costs_of_trees_are_measured_at_doublings(pair):
    costs = measure_costs(*pair, context=20, repeats=2, batch_size=2, widest=11)
    assert len(costs.verify) == 11
    assert between([1, 2, 4, 5], [1.0, 3.0, 4.0, 8.0]) == [1.0, 3.0, 3.5, 4.0, 8.0]
    assert between([1], [2.0]) == [2.0]
    decoder = SpeculativeDecoder(*pair, tree_nodes="auto", costs=costs)
    assert decoder.tree_nodes == 10
    assert [one.token_ids for one in decoder.generate(make_prompts(), 12, batch_size=2)] == [
        answer[:12] for answer in make_answers("llama")
    ]


def test_all_ways_decode_the_same_number_of_tokens(pair):
    speeds = race_plain(*pair, make_prompts()[:2], 12, draft_length=2)
    assert [one.name for one in speeds] == ["transformers generate", "plain loop", "speculative, 2 drafts"]
    assert [one.tokens for one in speeds] == [22, 22, 22]  # the two first tokens are the prefill's
    assert [one.tokens_per_cycle for one in speeds[:2]] == [1.0, 1.0]
    assert [one.verifier_calls for one in speeds[:2]] == [22, 22]
    assert speeds[2].verifier_calls < 18
    assert speeds[2].tokens_per_cycle > 1.5
    assert all(one.tokens_per_second == one.tokens / one.seconds for one in speeds)
    assert [one.cycles.accepted_per_cycle for one in speeds[:2]] == [0, 0]
    lines = table([one.figures() for one in speeds], ("name", "seconds", "tokens_per_cycle", "none such")).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1


def test_a_table_shows_what_any_line_has():
    lines = [{"k": 1, "nats 1": 2.34567, "low": 0.12345}, {"k": "two", "whole_match": None, "nats 1": ""}]
    head, rows = cells(lines)
    assert head == ["k", "nats 1", "low", "whole match"]
    assert rows == [["1", "2.35", "0.123", ""], ["two", "", "", ""]]
    assert table(lines).splitlines()[2] == "| 1   | 2.35   | 0.123 |             |"
