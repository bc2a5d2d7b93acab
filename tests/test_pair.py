"""A drafter cut out of its verifier: which layers it keeps, and that it drafts."""

import pytest
import torch
from conftest import make_prompts, make_verifier

from drafter.decode import SpeculativeDecoder
from drafter.models import CausalDrafter
from drafter.models.cut import cut_layers, spread
from drafter.verifier import Verifier, tiny


@pytest.mark.parametrize(
    ("layers", "of", "kept"), [(1, 30, [0]), (2, 30, [0, 29]), (4, 30, [0, 10, 19, 29]), (6, 6, list(range(6)))]
)
def test_layers_are_evenly_spaced(layers, of, kept):
    assert spread(layers, of) == kept


@pytest.mark.parametrize("layers", [0, 7])
def test_more_layers_than_there_are_and_none_are_refused(layers):
    with pytest.raises(ValueError, match=rf"pair.layers={layers}: must lie between 1 and the verifier's 6"):
        cut_layers(make_verifier("llama").model, layers)


def test_all_layers_are_the_model_itself(family, prompts):
    verifier = make_verifier(family)
    small = cut_layers(verifier.model, 6)
    with verifier.plain_attention() as model, torch.no_grad():
        ids = torch.tensor([prompts[1]])
        torch.testing.assert_close(small(ids).logits, model(ids).logits, rtol=0, atol=1e-4)


def test_a_layer_is_the_one_it_was_cut_from(family):
    model = make_verifier(family).model
    small = cut_layers(model, 2)
    for name, value in small.state_dict().items():
        theirs = name.replace("layers.1.", "layers.5.")
        assert torch.equal(value, model.state_dict()[theirs])
        assert value.data_ptr() != model.state_dict()[theirs].data_ptr()
    assert len(small.get_decoder().layers) == 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_was_cut_drafts_losslessly(family):
    verifier = make_verifier(family)
    drafter = CausalDrafter(Verifier(cut_layers(verifier.model, 5), verifier.tokenizer), 3)
    prompts = make_prompts()[:3]
    plain = SpeculativeDecoder(verifier).generate(prompts, 12)
    found = SpeculativeDecoder(verifier, drafter).generate(prompts, 12, batch_size=3)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
