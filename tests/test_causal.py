"""A causal language model as drafter: token for token, law for law, and which models may be one."""

import copy
from functools import cache

import pytest
import torch
from conftest import NEW_TOKENS, make_answers, make_prompts, make_verifier
from transformers import AutoModelForCausalLM, LlamaConfig

from drafter import CausalDrafter, SpeculativeDecoder
from drafter.decode import Costs, tokens_per_cycle
from drafter.decode.pair import Pair
from drafter.decode.proposers import CausalProposer
from drafter.models import BlockDiffusionDrafter, kind_of
from drafter.verification import match
from drafter.verifier import Verifier, tiny


def noisy(verifier, spread, seed=0):
    """A copy of a verifier whose weights are a little off: a drafter that is often right."""
    model = copy.deepcopy(verifier.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + spread * torch.randn(weight.shape, generator=generator))
    return Verifier(model, verifier.tokenizer)


@cache
def make_causal(family, spread=0.01):
    return CausalDrafter(noisy(make_verifier(family), spread))


def ids(generations):
    return [one.token_ids for one in generations]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_greedy_is_plain_decoding(verifier, family, answers, prompts, batch_size):
    found = SpeculativeDecoder(verifier, make_causal(family)).generate(prompts, NEW_TOKENS, batch_size=batch_size)
    assert ids(found) == answers
    kept = {count for one in found for count in one.accepted[:-1]}
    assert {0, 5} < kept  # none, all, and some
    assert all(one.verifier_calls == len(one.emitted) + 1 for one in found)


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("draft_length", [1, 2, 9])
def test_any_draft_length(verifier, family, answers, prompts, draft_length):
    decoder = SpeculativeDecoder(verifier, make_causal(family), draft_length=draft_length)
    found = decoder.generate(prompts, NEW_TOKENS, batch_size=3)
    assert ids(found) == answers
    assert max(kept for one in found for kept in one.accepted) == draft_length


@pytest.mark.parametrize("family", ["gemma3"])
def test_a_ragged_batch_of_eight_is_each_row_alone(verifier, family, prompts, monkeypatch):
    """Greedy and sampled, prompts of one token and prompts read in chunks among them."""
    monkeypatch.setattr("drafter.decode.pair.PREFILL_CHUNK", 16)
    many = [*prompts, [7], *(prompt[::-1] for prompt in prompts[:3])]
    for settings in ({}, {"temperature": 0.7, "rule": "shared_noise", "seed": 3}):
        rule = settings.get("rule")
        sampled = {name: value for name, value in settings.items() if name != "rule"}
        decoder = SpeculativeDecoder(verifier, make_causal(family), rule)
        alone = SpeculativeDecoder(verifier, rule=rule).generate(many, 12, **sampled)
        assert ids(decoder.generate(many, 12, batch_size=8, **sampled)) == ids(alone)


@pytest.mark.parametrize("family", ["llama"])
def test_a_model_that_knows_the_answers_is_always_right(verifier, prompts):
    """So nothing is read twice, skipped or misplaced: the verifier as its own drafter."""
    itself = CausalDrafter(verifier, draft_length=4)
    for settings in ({}, {"temperature": 0.8, "seed": 1}):
        for rule in (None, "speculative_sampling"):
            found = SpeculativeDecoder(verifier, itself, rule).generate(prompts, 21, batch_size=4, **settings)
            assert {kept for one in found for kept in one.accepted} == {4}
            assert {tuple(one.emitted) for one in found} == {(5, 5, 5, 5)}


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_cache_is_what_a_prefill_leaves(verifier, family, monkeypatch):
    made = []
    build = Pair.__init__
    monkeypatch.setattr(Pair, "__init__", lambda self, *arguments: made.append(self) or build(self, *arguments))
    prompt, drafter = make_prompts()[1], make_causal(family)
    (found,) = SpeculativeDecoder(verifier, drafter).generate([prompt], NEW_TOKENS)
    known = prompt + found.token_ids[:-2]  # it lags by a token, and the last one nobody read
    fresh = CausalProposer(verifier, drafter, 5)
    state = fresh.new_state(1, len(known))
    with torch.inference_mode():
        fresh.read(state.row(0), torch.tensor([known]), None)
    length = len(known) - 5  # the last cycle's slots may hold drafts that were not kept
    for name in ("keys", "values"):
        for got, expected in zip(getattr(made[0].state.cache, name), getattr(state.cache, name), strict=True):
            torch.testing.assert_close(got[:, :length], expected[:, :length], rtol=1e-4, atol=1e-4)
    assert length > len(prompt) + 5


@pytest.mark.parametrize("family", ["llama"])
def test_lengths_can_be_chosen_by_costs(verifier, family, answers, prompts):
    costs = Costs(0.2, [1.0, 1.02, 1.06, 1.12, 1.2, 1.4])
    found = SpeculativeDecoder(verifier, make_causal(family), draft_length="auto", costs=costs).generate(
        prompts, NEW_TOKENS, batch_size=2
    )
    assert ids(found) == answers
    assert len({length for one in found for length in one.drafted}) > 2


@pytest.mark.parametrize("family", ["llama"])
def test_the_weighing_function_sees_the_states_behind_the_drafts(verifier, family):
    """Of another width than the verifier's."""
    sizes = {"vocab_size": 288, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=512, initializer_range=0.3)
    small, seen = CausalDrafter(Verifier(AutoModelForCausalLM.from_config(config), verifier.tokenizer)), []

    def weigh(drafts, states):
        assert (drafts.shape, states.shape) == ((2, 5, 32), (2, 5, 64))
        seen.append(drafts)
        return torch.full(drafts.shape[:2], 0.5)

    def rule(draft_ids, draft_probs, verifier_probs, generator, *, verifier_weight):
        torch.testing.assert_close((small.model.logits(seen[-1]) / 0.7).softmax(-1), draft_probs)
        return match(draft_ids, draft_probs, verifier_probs, generator)

    decoder = SpeculativeDecoder(verifier, small, rule, verifier_weight=weigh)
    decoder.generate(make_prompts()[:2], 8, temperature=0.7, batch_size=2)
    assert len(seen) >= 2


def padded(verifier, size):
    """A noisy copy whose head and embedding have another number of rows; the tokenizer is the same."""
    model = copy.deepcopy(noisy(verifier, 0.01).model)
    model.resize_token_embeddings(size, mean_resizing=False)
    return CausalDrafter(Verifier(model, verifier.tokenizer))


@pytest.mark.parametrize("family", ["llama"])
@pytest.mark.parametrize("size", [260, 320])
def test_heads_may_be_padded_otherwise(verifier, answers, prompts, size):
    drafter = padded(verifier, size)
    found = SpeculativeDecoder(verifier, drafter).generate(prompts, NEW_TOKENS, batch_size=3)
    assert ids(found) == answers
    assert tokens_per_cycle(found) > 1.5
    SpeculativeDecoder(verifier, drafter, "block_verification").generate(prompts, 12, temperature=1.0, batch_size=3)


@pytest.mark.parametrize("family", ["llama"])
def test_rows_end_where_the_drafter_can_read_no_further(verifier, monkeypatch):
    drafter = make_causal("llama")
    monkeypatch.setattr(drafter.model.config, "max_position_embeddings", 40)
    (found,) = SpeculativeDecoder(verifier, drafter, draft_length=3).generate([[5] * 30], 11)
    assert found.stop == "30 prompt tokens + max_new_tokens=11 exceed the context of 40"


def saved(tmp_path, family="llama"):
    tiny.save(family, tmp_path)
    return str(tmp_path)


def test_loading_what_a_directory_holds(tmp_path):
    directory = saved(tmp_path)
    assert kind_of(directory) is CausalDrafter is kind_of("tiny-qwen3")
    assert BlockDiffusionDrafter.recognises({"architectures": ["DFlashDraftModel"]})
    verifier = make_verifier("llama")
    drafter = CausalDrafter.beside(directory, verifier)
    found = SpeculativeDecoder(verifier, drafter, draft_length=3).generate(make_prompts()[:2], NEW_TOKENS)
    assert ids(found) == make_answers("llama")[:2]
    assert {count for one in found for count in one.accepted} == {3}  # the same weights


def spoil_tokenizer(directory):
    for path in directory.glob("*token*"):
        path.unlink()


def spoil_architecture(directory):
    text = (directory / "config.json").read_text()
    (directory / "config.json").write_text(text.replace("LlamaForCausalLM", "LlamaModel"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_tokenizer, r"drafter='.*': can't draft token by token \(.*can't be loaded as a causal LM"),
        (spoil_architecture, r"drafter='.*': its config.json says architectures=\['LlamaModel'\]; name a drafter of"),
    ],
)
def test_what_can_not_draft_is_refused_in_a_line(tmp_path, spoil, message):
    directory = saved(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        kind_of(directory).beside(directory, make_verifier("llama"))
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused(tmp_path):
    from transformers import BartConfig, BartForCausalLM

    config = BartConfig(vocab_size=288, d_model=16, decoder_layers=1, encoder_layers=1, decoder_attention_heads=2)
    BartForCausalLM(config).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"is_encoder_decoder": false', '"is_encoder_decoder": true'))
    with pytest.raises(ValueError, match=r"can't draft token by token \(an encoder-decoder"):
        kind_of(str(tmp_path)).beside(str(tmp_path), make_verifier("llama"))


def test_other_vocabularies_are_refused():
    verifier, drafter = make_verifier("llama"), make_causal("llama")
    other = copy.copy(drafter.model)
    other.tokenizer = copy.deepcopy(verifier.tokenizer)
    other.tokenizer.add_tokens(["another"])
    for tokenizer, message in (
        (
            other.tokenizer,
            r"drafter: its vocabulary \(288 ids\) is not the verifier's \(288 ids\); choose a model with",
        ),
        (None, "drafter: the drafter has no tokenizer to compare; load it with its own"),
    ):
        other.tokenizer = tokenizer
        with pytest.raises(ValueError, match=message):
            SpeculativeDecoder(verifier, CausalDrafter(other))
    bare = copy.copy(verifier)
    bare.tokenizer = None
    with pytest.raises(ValueError, match="drafter: the verifier has no tokenizer to compare"):
        SpeculativeDecoder(bare, drafter)


def test_trees_and_lengths_that_it_can_not_have_are_refused():
    verifier, drafter = make_verifier("llama"), make_causal("llama")
    with pytest.raises(ValueError, match="tree_nodes=4: this drafter's slots depend on each other; leave it out"):
        SpeculativeDecoder(verifier, drafter, tree_nodes=4)
    with pytest.raises(ValueError, match="draft_length=2048: the drafter proposes at most 2047"):
        SpeculativeDecoder(verifier, drafter, draft_length=2048)
    with pytest.raises(ValueError, match="draft_length=0: must be >= 1 and below the drafter's context of 2048"):
        CausalDrafter(verifier, draft_length=0)
