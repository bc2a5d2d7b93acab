"""Verifiers whose layers keep states: whatever is kept of a pass, the next one goes on from there."""

import pytest
import torch
import zoo
from conftest import make_drafter, memorise, plain_generate

from drafter.decode import SpeculativeDecoder
from drafter.models import CausalDrafter
from drafter.verifier import Verifier

SETTINGS = {"tap_layers": [0, 2], "mask_token_id": 95}
FAMILIES = ["qwen3_next", "lfm2", "falcon_h1", "nemotron_h"]


def make(family):
    return Verifier(zoo.build(family).float())


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_what_is_kept_of_a_pass_decides_the_next(family):
    """Rows of three lengths keep all, some or nothing of each pass; laws are those of the whole row in one pass."""
    verifier = Verifier(zoo.build(family))
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 90, (3, 40), generator=generator)
    whole = verifier.logits(verifier.states(ids, [0])[..., 32:])
    cache, lengths = verifier.new_cache(3, 48), [3, 9, 1]
    for row, length in enumerate(lengths):
        verifier.step(ids[row : row + 1, :length], cache.row(row))
    cache.set_lengths(lengths)
    for kept in ([4, 1, 2], [0, 3, 3], [2, 4, 0], [4, 4, 4], [1, 1, 1]):
        new = torch.stack([ids[row, length : length + 4] for row, length in enumerate(lengths)])
        laws = verifier.logits(verifier.step(new, cache)[0])
        for row, length in enumerate(lengths):
            assert zoo.total_variation(laws[row], whole[row, length : length + 4]) < 1e-3
        lengths = [length + count for length, count in zip(lengths, kept, strict=True)]
        cache.set_lengths(lengths)
    verifier.step(ids[1:2, :7], cache.row(1))  # another prompt takes the place of a row, the others wait
    cache.set_lengths([lengths[0], 7, lengths[2]])
    new = torch.stack([ids[row, length : length + 1] for row, length in enumerate([lengths[0], 7, lengths[2]])])
    laws = verifier.logits(verifier.step(new, cache)[0])
    assert zoo.total_variation(laws[1], whole[1, 7:8]) < 1e-3
    with pytest.raises(ValueError, match=r"recurrent layers stand behind 7 tokens of a row, which can't become 5"):
        cache.set_lengths([lengths[0], 5, lengths[2]])
    cache.set_lengths([0, 7, lengths[2]])  # a row begins anew
    laws = verifier.logits(verifier.step(ids[:, :3], cache)[0])
    assert zoo.total_variation(laws[0], whole[0, :3]) < 1e-3


def test_drafts_for_a_recurrent_verifier_lose_nothing():
    verifier = make("qwen3_next")
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(3, 90, (length,), generator=generator).tolist() for length in (3, 21, 9)]
    answers = [plain_generate(verifier, prompt, 12) for prompt in prompts]
    drafter = memorise(verifier, list(zip(prompts, answers, strict=True)), **SETTINGS)
    found = SpeculativeDecoder(verifier, drafter).generate(prompts, 12, batch_size=2)
    assert [one.token_ids for one in found] == answers
    accepted = {count for one in found for count in one.accepted}
    assert 3 in accepted
    assert accepted & {0, 1, 2}  # so that something was replayed


def test_rows_of_one_prompt_share_its_reading():
    verifier = make("lfm2")
    prompts = [[3, 4, 5], [7, 8, 9, 10, 11], [7, 8, 9, 10, 11], [7, 8, 9, 10, 11]]
    drafter = make_drafter(verifier, **SETTINGS)
    alone, together = (SpeculativeDecoder(verifier, drafter).generate(prompts, 9, batch_size=size) for size in (1, 4))
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]


def test_what_recurrent_layers_do_not_do_is_refused():
    verifier = make("lfm2")
    with pytest.raises(ValueError, match=r"tree_nodes=4: the verifier's recurrent layers read no tree"):
        SpeculativeDecoder(verifier, make_drafter(verifier, **SETTINGS), tree_nodes=4)
    with pytest.raises(ValueError, match="has layers that can't be rewound"):
        CausalDrafter(verifier)
