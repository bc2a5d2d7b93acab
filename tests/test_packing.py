"""Packed rows: nothing of a document is seen, drawn, predicted or counted by another."""

import copy
import random

import naive
import pytest
import torch
from conftest import MASK_TOKEN, make_drafter, make_verifier

from drafter.blocks import document_positions, drafted_slots, sample_anchors, slot_ids, slot_labels
from drafter.data.packing import join, pack, pad_packed, repack, unpack
from drafter.data.rows import Row
from drafter.training.batches import Assembly
from drafter.verifier import Verifier
from losses import BlockScores, Losses, score_blocks

SIZE = 4


def make_documents(count=9, longest=40, seed=0):
    """Documents with one to three answers; one begins with an answer, so that it would go on behind another's end."""
    draw = random.Random(seed)
    documents = []
    for number in range(count):
        length = draw.randrange(8, longest)
        cuts = sorted(draw.sample(range(1, length), 2 * draw.randrange(1, 4)))
        spans = [(start, end) for start, end in zip(cuts[::2], cuts[1::2], strict=True)]
        if number % 3 == 0:
            spans = [(0, 5), *((start, end) for start, end in spans if start > 5)]
        if number % 3 != 1:
            spans = [*(span for span in spans if span[1] < length - 2), (length - 2, length)]
        documents.append(Row([draw.randrange(3, 259) for _ in range(length)], tuple(spans)))
    return documents


def test_packs_hold_every_document_once_within_the_limit():
    draw = random.Random(0)
    lengths = [draw.randrange(5, 60) for _ in range(300)] + [70]
    packs = pack(lengths, 64)
    assert sorted(index for members in packs for index in members) == list(range(301))
    assert [300] in packs  # longer than the limit
    assert all(sum(lengths[index] for index in members) <= 64 for members in packs if members != [300])
    assert sum(lengths) / (64 * len(packs)) > 0.95
    assert pack([], 64) == []
    assert sorted(map(sorted, pack([30, 34, 20, 44], 64))) == [[0, 1], [2, 3]]


def test_a_packed_batch_knows_where_each_document_is():
    batch = pad_packed([[Row([5, 6, 7], ((1, 3),)), Row([8, 9], ((0, 2),))], [Row([4], ((0, 1),))]])
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9], [4, 0, 0, 0, 0]]
    assert batch.supervised.tolist() == [[False, True, True, True, True], [True, False, False, False, False]]
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1], [0, -1, -1, -1, -1]]
    assert document_positions(batch.documents).tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert batch.to(torch.device("cpu")).documents.equal(batch.documents)


def test_unpacking_and_packing_again_changes_nothing():
    documents = make_documents()
    batch = pad_packed([documents[:4], documents[4:5], documents[5:]])
    apart = unpack(batch.ids, batch.documents)
    for row, document in enumerate(documents):
        length = len(document.ids)
        assert apart[row, :length].tolist() == document.ids
        assert (apart[row, length:] == 0).all()
    assert repack(apart, batch.documents).equal(batch.ids)


@pytest.mark.parametrize("count", [3, 100])
def test_anchors_are_drawn_in_each_document(count):
    documents = make_documents()
    packs = [documents[:4], documents[4:5], documents[5:]]
    batch = pad_packed(packs)
    for seed in range(10):
        draws = torch.rand(batch.ids.shape, generator=torch.Generator().manual_seed(seed))
        anchors, used = sample_anchors(batch.supervised, count, draws, batch.documents)
        assert used.any(0).all()  # no column for nothing
        for row, members in enumerate(packs):
            kept, at = anchors[row][used[row]].tolist(), 0
            assert kept == sorted(set(kept))
            for member in members:
                alone = pad_packed([[member]])
                allowed = naive.candidates(alone.supervised[0].tolist())
                own = [anchor - at for anchor in kept if at <= anchor < at + len(member.ids)]
                assert set(own) <= set(allowed)
                assert len(own) == min(count, len(allowed))
                at += len(member.ids)


def test_slots_end_where_their_document_does():
    first, second = Row([5, 6, 7, 8], ((1, 4),)), Row([9, 10, 11], ((0, 3),))
    batch = pad_packed([[first, second]])
    anchors, used = torch.tensor([[1, 2, 4]]), torch.tensor([[True, True, True]])
    labels, valid = slot_labels(batch.ids, batch.supervised, anchors, used, SIZE, batch.documents)
    assert valid.tolist() == [[[True, True, False], [True, False, False], [True, True, False]]]
    assert labels[valid].tolist() == [7, 8, 8, 10, 11]
    found = drafted_slots(batch.supervised, anchors, used, SIZE, batch.documents)
    assert found.tolist() == [[False, False, True, True, False, True, True]]


def losses_by_document(drafter, verifier, batch, members):
    """The objective of each document of a batch, in order."""
    rows, anchors, used, documents = batch.rows, batch.anchors, batch.used, batch.rows.documents
    if documents is None:
        taps, numbers = verifier.taps(rows.ids, drafter.tap_layers).clone(), torch.zeros_like(anchors)
    else:
        taps = repack(verifier.taps(unpack(rows.ids, documents), drafter.tap_layers), documents)
        numbers = documents.gather(1, anchors)
    block = verifier.embed(slot_ids(rows.ids, anchors, SIZE, MASK_TOKEN))
    hidden = drafter(block, taps, anchors, documents)[:, :, 1:]
    labels, valid = slot_labels(rows.ids, rows.supervised, anchors, used, SIZE, documents)
    scores = score_blocks(hidden, verifier.head, labels, valid)
    for row in range(len(rows.ids)):
        for number in range(members[row]):
            own = used[row] & (numbers[row] == number)
            parts = (field[row : row + 1, own] for field in (scores.nll, scores.hit, scores.valid))
            yield Losses()(BlockScores(*parts))[0]


@pytest.mark.parametrize(("family", "window"), [("llama", None), ("gemma3", 6)], ids=["full", "sliding"])
def test_packed_documents_have_the_losses_and_gradients_that_they_have_alone(family, window):
    verifier = Verifier(copy.deepcopy(make_verifier(family).model).double())
    drafter = make_drafter(verifier).double()
    drafter.layers[0].window, drafter.layers[0].causal = window, window is not None
    documents = make_documents()
    packs = [documents[:4], documents[4:5], documents[5:]]
    batch = Assembly(seed=0, anchors=5, block_size=SIZE, packing=True)(0, packs)
    together = list(losses_by_document(drafter, verifier, batch, [len(members) for members in packs]))
    sum((number + 1) * loss for number, loss in enumerate(together)).backward()
    gradients = {name: weight.grad.clone() for name, weight in drafter.named_parameters()}
    drafter.zero_grad()
    starts = [
        (row, sum(len(each.ids) for each in members[:n]))
        for row, members in enumerate(packs)
        for n in range(len(members))
    ]
    for number, (document, (row, at)) in enumerate(zip(documents, starts, strict=True)):
        inside = (batch.anchors[row] >= at) & (batch.anchors[row] < at + len(document.ids)) & batch.used[row]
        anchors = batch.anchors[row][inside][None] - at
        alone = Assembly(seed=0, anchors=5, block_size=SIZE, packing=False)(0, [[document]])
        assert torch.equal(alone.anchors[alone.used], anchors[0])  # a document has the same ones, packed or not
        (loss,) = losses_by_document(drafter, verifier, alone, [1])
        assert loss.item() == pytest.approx(together[number].item(), rel=1e-9)
        ((number + 1) * loss).backward()
    for name, weight in drafter.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-9, atol=1e-9 * gradients[name].abs().max())


def test_a_joined_row_keeps_its_answers():
    documents = make_documents()[:3]
    joined = join(documents)
    assert joined.answer == [token for document in documents for token in document.answer]
    assert len(joined.ids) == sum(len(document.ids) for document in documents)
