"""What slots say: against a drafter's own laws, slot by slot; walks of trees against the tree decoder."""

import math

import pytest
import torch
from conftest import NEW_TOKENS, make_memorising, make_prompts, make_verifier

from drafter.blocks import every_anchor, slot_ids
from drafter.data.rows import Row, pad
from drafter.decode import Costs, SpeculativeDecoder
from drafter.evaluation.diagnosis import diagnosis
from drafter.evaluation.paying import walk_trees, what_pays
from drafter.evaluation.slots import Observed, observe, observe_all
from drafter.evaluation.walk import hits_along, leading_of, walk

VOCABULARIES = {"whole": None, "some": list(range(3, 250))}


@pytest.fixture(params=VOCABULARIES, scope="module")
def seen(request):
    """Verifier, drafter, prompts, greedy answers, and what was observed along them."""
    verifier, drafter = make_verifier("llama"), make_memorising("llama")
    with pytest.MonkeyPatch.context() as patch:
        ids = VOCABULARIES[request.param]
        patch.setitem(drafter._buffers, "vocabulary", None if ids is None else torch.tensor(ids))
        answers = SpeculativeDecoder(verifier).generate(make_prompts(), NEW_TOKENS, batch_size=3)
        yield verifier, drafter, make_prompts(), answers, list(observe_all(verifier, drafter, make_prompts(), answers))


def test_hits_are_those_of_the_walk(seen):
    verifier, drafter, prompts, answers, observed = seen
    for one, (hits, valid) in zip(observed, hits_along(answers, prompts, verifier, drafter), strict=True):
        assert torch.equal(one.hits, hits)
        assert torch.equal(one.valid, valid)
        assert torch.equal((one.rank == 0) & one.valid, one.hits)


def test_figures_of_a_slot_are_those_of_its_law(seen):
    verifier, drafter, prompts, answers, observed = seen
    prompt, answer, one = prompts[1], answers[1].token_ids, observed[1]
    rows = pad([Row.of(prompt, answer)])
    allowed = range(288) if drafter.vocabulary is None else drafter.vocabulary.tolist()
    anchors, used = every_anchor(rows.supervised)
    block = verifier.embed(slot_ids(rows.ids, anchors, drafter.block_size, drafter.mask_token_id))
    taps = verifier.taps(rows.ids, drafter.tap_layers).clone()
    laws = (drafter(block, taps, anchors)[0, used[0], 1:] @ verifier.head[list(allowed)].T).double().softmax(-1)
    with verifier.plain_attention() as model, torch.no_grad():
        own = model(rows.ids).logits[0].double().softmax(-1)
    for at, slot in ((0, 0), (3, 2), (20, 1)):
        law, token = laws[at, slot], answer[at + slot + 1]
        values = sorted(law.tolist(), reverse=True)
        assert int(one.labels[at, slot]) == token
        assert int(one.drafted[at, slot]) == allowed[int(law.argmax())]
        likely = float(law[allowed.index(token)]) if token in allowed else 0.0
        assert math.exp(one.log_label[at, slot]) == pytest.approx(likely, abs=1e-5)
        assert int(one.rank[at, slot]) == sum(value > likely + 1e-9 for value in values)
        assert float(one.confidence[at, slot]) == pytest.approx(values[0], abs=1e-5)
        assert float(one.margin[at, slot]) == pytest.approx(values[0] - values[1], abs=1e-5)
        assert float(one.entropy[at, slot]) == pytest.approx(-sum(v * math.log(v) for v in values), abs=1e-4)
        expected = -(own[len(prompt) + at + slot] * own[len(prompt) + at + slot].log()).sum()
        assert float(one.verifier_entropy[at, slot]) == pytest.approx(float(expected), abs=1e-4)
        assert one.scores[at, slot].exp().tolist() == pytest.approx(values[: one.scores.shape[-1]], abs=1e-5)


@pytest.mark.parametrize("nodes", [1, 5, 16])
def test_walks_of_trees_equal_the_tree_decoder(seen, nodes):
    verifier, drafter, prompts, answers, observed = seen
    made = SpeculativeDecoder(verifier, drafter, tree_nodes=nodes).generate(prompts, NEW_TOKENS, batch_size=2)
    pairs = [(one, answer.token_ids) for one, answer in zip(observed, answers, strict=True)]
    found = walk_trees(pairs, nodes)
    assert found.emitted == [one.emitted for one in made]
    assert found.accepted == [one.accepted for one in made]


PASSES = {
    "a tree of 32": [1.0] * 33,
    "3 in a row": [1.0, *[1.1] * 3, *[9.0] * 29],
    "1 in a row": [1.0, 1.1, *[9.0] * 31],
}


@pytest.mark.parametrize(("best", "verify"), PASSES.items(), ids=PASSES)
def test_what_pays_weighs_tokens_and_passes(seen, best, verify):
    _, _, _, answers, observed = seen
    ways = what_pays(observed, [one.token_ids for one in answers], Costs(0.1, verify))
    leading = leading_of((one.hits, one.valid) for one in observed)
    of = {one["drafts"]: one for one in ways}
    assert of["2 in a row"]["tokens_per_cycle"] == walk(leading, 2).tokens_per_cycle
    assert of["2 in a row"]["ideal"] == pytest.approx(of["2 in a row"]["tokens_per_cycle"] / (verify[2] + 0.1))
    assert [one["ideal"] for one in ways] == sorted((one["ideal"] for one in ways), reverse=True)
    assert ways[0]["drafts"] == best


def test_a_diagnosis_has_every_figure_and_no_nan(seen):
    _, _, _, _, observed = seen
    text = "the 12 x= \n".__getitem__
    found = diagnosis([*observed, None], lambda token: text(token % 11))
    assert found["blocks"] == sum(len(one.hits) for one in observed)
    assert sum(found["first_rejections"]) == found["blocks"]
    assert set(found["by_class"]) == {"word", "code", "number", "whitespace"}
    assert 0 <= found["at_first_error"]["label_in_top_2"] <= found["at_first_error"]["label_in_top_8"] <= 1
    reached = sum(row["count"] for row in found["calibration"])
    for groups in (found["by_class"], found["by_verifier_entropy"]):
        assert sum(one["count"] for one in groups.values()) == reached
    never = observe(*seen[:2], seen[2][0], seen[3][0].token_ids)
    perfect = Observed(**{name: value for name, value in vars(never).items()} | {"hits": never.valid})
    assert diagnosis([perfect], str)["at_first_error"]["entropy"] is None


def test_halves_of_the_answers_together_are_the_whole(seen):
    """What two ranks observe, put together, gives the figures of one."""
    _, _, _, _, observed = seen
    halves = [Observed.together(observed[part::2]) for part in range(2)]
    one, other = diagnosis(observed, str), diagnosis(halves, str)
    assert one["first_rejections"] == other["first_rejections"]
    assert one["calibration_error"] == pytest.approx(other["calibration_error"], rel=1e-12)
    assert one["acceptance_by_slot"] == other["acceptance_by_slot"]


def test_answers_of_one_token_are_not_observed(seen):
    verifier, drafter, prompts, *_ = seen
    short = SpeculativeDecoder(verifier).generate(prompts[:1], 1)
    assert list(observe_all(verifier, drafter, prompts[:1], short)) == [None]
