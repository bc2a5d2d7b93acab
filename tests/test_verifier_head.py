"""The verifier's head alone: logits of every law, in any dtype, folded into one product, read without the body."""

import pytest
import torch
from conftest import make_drafter, make_prompts, make_verifier

from drafter.decode import SpeculativeDecoder
from drafter.verifier import Verifier, VerifierHead, tiny
from drafter.verifier.output import OutputHead

LAWS = [{}, {"bias": True}, {"scale": 0.3}, {"softcap": 2.0}, {"bias": True, "scale": 3.0, "softcap": 1.5}]


def head_of(law, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 5, generator=generator)
    bias = torch.randn(11, generator=generator) if law.get("bias") else None
    return OutputHead(weight, bias, law.get("scale", 1.0), law.get("softcap")).to(dtype)


def naive(head, hidden):
    z = hidden.double() @ head.weight.double().T
    z = head.scale * (z if head.bias is None else z + head.bias.double())
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


@pytest.fixture
def hidden():
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_logits_are_the_formula(law, hidden):
    head = head_of(law)
    torch.testing.assert_close(head(hidden).double(), naive(head, hidden), rtol=1e-5, atol=1e-5)
    ids = torch.tensor([1, 4, 9])
    torch.testing.assert_close(head.rows(ids)(hidden), head(hidden)[..., ids])
    assert head.rows(None) is head


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_states_of_any_dtype_are_taken(law, hidden):
    head = head_of(law)
    torch.testing.assert_close(head(hidden.bfloat16()), head(hidden.bfloat16().float()))
    assert head_of(law, torch.bfloat16)(hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_a_folded_head_is_one_product(law, hidden):
    head = head_of(law, torch.float64)
    if law.get("softcap"):
        with pytest.raises(ValueError, match="soft-capped at"):
            head.folded()
        return
    torch.testing.assert_close(head.unfolded(hidden.double()) @ head.folded().T, naive(head, hidden))


@pytest.mark.parametrize("family", [*tiny.FAMILIES])
def test_the_head_is_read_without_the_body(family, tmp_path):
    model, tokenizer = tiny.build(family)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    alone, whole = VerifierHead.load(str(tmp_path)), make_verifier(family)
    ids = torch.arange(20)
    names = [name for name, _ in alone.model.named_parameters()]
    assert not any(".layers." in name for name in names)
    assert torch.equal(alone.embed(ids), torch.nn.Module.__call__(model.get_input_embeddings(), ids))
    assert torch.equal(alone.head, model.get_output_embeddings().weight)
    assert alone.num_layers == alone.config.num_hidden_layers == whole.num_layers == 6
    assert alone.stop_ids == whole.stop_ids
    assert alone.chat_ids("hi") == whole.chat_ids("hi")
    alone.check_taps([0, 4])


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("bfloat16", "float32")], ids="-".join)
@pytest.mark.parametrize("how", [{}, {"tree_nodes": 6}], ids=["chain", "tree"])
@pytest.mark.parametrize("vocabulary", [None, list(range(0, 288, 2))], ids=["whole", "half"])
def test_verifier_and_drafter_may_be_of_different_dtypes(dtypes, how, vocabulary):
    """A verifier in float32 beside an export in bfloat16 is the README's own example."""
    theirs, ours = (getattr(torch, name) for name in dtypes)
    verifier = Verifier(tiny.build("llama")[0].to(theirs))
    drafter = make_drafter(make_verifier("llama")).to(ours)
    drafter.vocabulary = None if vocabulary is None else torch.tensor(vocabulary)
    prompts = make_prompts()[:2]
    plain = SpeculativeDecoder(verifier).generate(prompts, 8)
    found = SpeculativeDecoder(verifier, drafter, **how).generate(prompts, 8)
    if theirs is torch.float32:
        assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    assert all(one.token_ids for one in found)
