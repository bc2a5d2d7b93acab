"""Draft lengths chosen by confidences and costs: the arithmetic, and what the decoder does with it."""

import pytest
import torch
from conftest import NEW_TOKENS, make_answers, make_memorising, make_prompts, make_verifier

from drafter.decode import Costs, SpeculativeDecoder
from drafter.decode.answering import Answering
from drafter.decode.costs import Survival
from drafter.decode.deciding import Decider
from drafter.decode.pair import Pair
from drafter.decode.proposers import BlockDiffusionProposer, Proposal
from drafter.decode.sampling import Law, probabilities
from drafter.decode.schemes import Chain
from drafter.verification import block_verification


@pytest.mark.parametrize(
    ("draft", "verify", "tokens", "best"),
    [
        (1.0, [10, 10, 10], [1.0, 1.5, 1.7], 2),
        (1.0, [10, 20, 30], [1.0, 1.5, 1.7], 0),
        (1.0, [10, 12, 18], [1.0, 1.5, 1.7], 1),
        (90.0, [10, 12, 18], [1.0, 1.5, 1.7], 2),  # the dearer the draft, the more it should yield
        (1.0, [10, 10, 10], [1.0, 1.5, 1.5], 1),  # no drafts for nothing
    ],
)
def test_the_best_length_has_the_most_tokens_per_second(draft, verify, tokens, best):
    assert Costs(draft, verify).best(tokens) == best


def test_confidences_are_taken_as_they_are_until_something_is_known():
    assert Survival().expected([0.5, 0.25, 1.0], left=9) == [1.0, 1.5, 1.625, 1.75]
    assert Survival().expected([0.5, 0.25, 1.0], left=2) == [1.0, 1.5, 1.5, 1.5]  # one draft and the verifier's token
    assert Survival().expected([0.5], left=1) == [1.0, 1.0]


def test_confidences_are_corrected_by_what_was_kept():
    survival, generator = Survival(), torch.Generator().manual_seed(0)
    for _ in range(3000):  # drafts are kept half as often as the drafter thinks
        confidences = torch.rand(3, generator=generator).tolist()
        kept = [float(torch.rand(1, generator=generator)) < value / 2 for value in confidences]
        accepted = [*kept, False].index(False)
        survival.learn(confidences, min(accepted, 2), drafts=2)  # the third slot was not drafted
    assert sum(survival.reached) < 3000 * 2
    for confidence in (0.25, 0.55, 0.95):
        assert survival.chance(confidence) == pytest.approx(confidence / 2, abs=0.06)


def test_only_slots_that_were_reached_count():
    survival = Survival()
    survival.learn([0.95, 0.55, 0.15], accepted=1, drafts=3)
    survival.learn([1.0, 0.65, 0.15], accepted=2, drafts=2)
    assert [survival.reached[tenth] for tenth in (9, 5, 6, 1)] == [2, 1, 1, 0]
    assert [survival.kept[tenth] for tenth in (9, 5, 6, 1)] == [2, 0, 1, 0]


def decode(costs, batch_size=1, **settings):
    decoder = SpeculativeDecoder(
        make_verifier("llama"), make_memorising("llama"), draft_length="auto", costs=Costs(0.2, costs)
    )
    return decoder.generate(make_prompts(), NEW_TOKENS, batch_size=batch_size, **settings)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("verify", "expected"),
    [([1, 1, 1, 1], {1, 2, 3}), ([1, 99, 99, 99], {0}), ([1, 1.3, 1.6, 1.9], {0, 1, 2, 3})],
    ids=["free", "dear", "between"],
)
def test_lengths_follow_the_costs(verify, expected, batch_size):
    found = decode(verify, batch_size)
    assert [one.token_ids for one in found] == make_answers("llama")
    used = {length for one in found for length in one.drafted}
    assert used <= expected | {0}
    assert len(used) >= min(2, len(expected))
    assert all(kept <= length for one in found for kept, length in zip(one.accepted, one.drafted, strict=True))


def test_a_length_is_a_function_of_the_laws_and_not_of_the_drawn_tokens(monkeypatch):
    """Else block verification would not be lossless: the drafts would not have the laws that it is told."""
    verifier, drafter, prompt = make_verifier("llama"), make_memorising("llama"), make_prompts()[0]
    proposer, seen = BlockDiffusionProposer(verifier, drafter, 3), []
    decide = Decider.decide

    def watch(self, drafts, hidden, noise):
        seen.append((drafts.ids.shape[1], drafts.ids.tolist(), drafts.probs))
        return decide(self, drafts, hidden, noise)

    monkeypatch.setattr(Decider, "decide", watch)
    with torch.inference_mode():
        for seed in range(8):
            decider = Decider(verifier, proposer, block_verification, Law(1.5), seed)
            chain = Chain(Pair(verifier, proposer, 1, 60, 4), decider, 30, Costs(0.2, [1.0, 1.02, 1.2, 2.0]))
            row = Answering(0, prompt)
            chain.prefill([0], [row])
            row.result.token_ids = [5]
            chain.cycle([row])
    lengths, drawn, laws = zip(*seen, strict=True)
    assert len(set(lengths)) == 1
    assert 0 < lengths[0] < 3
    assert len({str(ids) for ids in drawn}) > 1
    assert all(torch.equal(law, laws[0]) for law in laws)


def test_confidences_are_the_highest_probabilities(monkeypatch):
    verifier, drafter = make_verifier("llama"), make_memorising("llama")
    proposer, seen = BlockDiffusionProposer(verifier, drafter, 3), []
    first = Proposal.first
    monkeypatch.setattr(Proposal, "first", lambda self, length: seen.append(self) or first(self, length))
    laws = []
    logits = proposer.logits
    monkeypatch.setattr(BlockDiffusionProposer, "logits", lambda self, hidden: laws.append(logits(hidden)) or laws[-1])
    for settings in ((0.0, 1.0, 0), (0.7, 0.9, 0)):
        decode([1.0] * 4, temperature=settings[0], top_p=settings[1])
        for drafts, values in zip(seen, laws, strict=True):
            expected = probabilities(values, settings[0] or 1.0, *settings[1:]).amax(-1)
            torch.testing.assert_close(drafts.confidences, expected)
        seen.clear()
        laws.clear()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"draft_length": "auto"},
            r"draft_length='auto': needs costs; measure them by drafter.evaluation.parts.measure_costs",
        ),
        (
            {"draft_length": "auto", "costs": Costs(1.0, [1.0] * 3)},
            r"costs: hold .* 1 to 3 tokens, drafts need up to 4",
        ),
        ({"draft_length": "longest"}, r"draft_length=longest: the drafter proposes at most 3; choose 0 to 3, or auto"),
    ],
)
def test_lengths_that_cannot_be_chosen_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SpeculativeDecoder(make_verifier("llama"), make_memorising("llama"), **wrong)
