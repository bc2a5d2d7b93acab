"""Losses on the verifier's law in training: the states that they read, and steps that run."""

import lightning
import pytest
import torch
from conftest import make_answers, make_drafter, make_prompts, make_verifier, with_taps

from drafter import config as configs
from drafter.blocks import every_anchor, slots_before
from drafter.data.rows import Row, pad
from drafter.taps import LocalTaps, TapCache
from drafter.training.batches import Steps
from drafter.training.batches.feed import Feed
from drafter.training.module import DrafterModule

LAYERS = [1, 3]


def make_rows_of(family):
    pairs = zip(make_prompts(), make_answers(family), strict=True)
    return [Row.of(prompt, answer, f"{index}") for index, (prompt, answer) in enumerate(pairs)]


def full_forward(verifier, ids):
    """Every position's normed state, from transformers' own attention, a row at a time."""
    with torch.no_grad(), verifier.plain_attention() as model:
        return model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]


def test_states_are_taps_and_what_the_head_reads(family, verifier):
    rows = make_rows_of(family)
    batch = pad(rows)
    states = verifier.states(batch.ids, LAYERS)
    torch.testing.assert_close(states[..., :128], verifier.taps(batch.ids, LAYERS), rtol=0, atol=0)
    for row, found in zip(rows, states[..., 128:], strict=True):
        torch.testing.assert_close(found[: len(row.ids)], full_forward(verifier, row.ids), rtol=1e-4, atol=1e-5)


def test_slot_k_is_compared_at_anchor_plus_k_minus_one(family, verifier):
    """Under the head, the state of slot k gives the token that slot k predicts: the answers are greedy."""
    rows = make_rows_of(family)
    batch = pad(rows)
    anchors, used = every_anchor(batch.supervised)
    found = slots_before(verifier.states(batch.ids, LAYERS)[..., 128:], anchors, block_size=4)
    assert found.shape == (*anchors.shape, 3, 64)
    for b, row in enumerate(rows):
        direct = full_forward(verifier, row.ids)
        for a, anchor in enumerate(anchors[b].tolist()):
            for k in range(1, 4):
                if used[b, a] and anchor + k < len(row.ids):
                    torch.testing.assert_close(found[b, a, k - 1], direct[anchor + k - 1], rtol=1e-4, atol=1e-5)
                    assert verifier.logits(found[b, a, k - 1]).argmax() == row.ids[anchor + k]


@pytest.mark.parametrize("family", ["llama"])
def test_cached_states_equal_online_ones(family, verifier, tmp_path):
    rows = make_rows_of(family)
    wide, narrow = (TapCache(verifier, rows, LAYERS, tmp_path, final=final) for final in (True, False))
    assert wide.folder != narrow.folder
    for index, row in enumerate(rows):
        alone = verifier.states(torch.tensor([row.ids]), LAYERS)[0]
        torch.testing.assert_close(wide[index], alone, rtol=1e-4, atol=1e-5)
        assert torch.equal(wide[index][:, :128], narrow[index])


def recipe(tmp_path, *words):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: t\nverifier: {source: tiny-llama}\ndata: {answers: a}\ndrafter: {mask_token_id: 2}\n")
    return configs.load(path, ["training.rows=3", "training.anchors=4", "training.max_steps=3", *words])


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jsd", "total_variation", "lk", "overlap_chain"])
@pytest.mark.parametrize("cached", [True, False], ids=["cached", "online"])
def test_training_on_the_verifiers_law(loss, cached, tmp_path):
    family = "llama"
    verifier, rows = make_verifier(family), make_rows_of(family)
    off = [f"losses.{name}.weight=0" for name in ("decayed_ce", "first_error", "chain_reward")]
    config = recipe(tmp_path, *off, f"losses.{loss}.weight=1", "training.temperature=0.8", "training.log_every=1")
    drafter = make_drafter(verifier)
    taps = TapCache(verifier, rows, LAYERS, tmp_path, final=True) if cached else LocalTaps(verifier, LAYERS, final=True)
    module = DrafterModule(config, drafter, verifier, [])
    before = {name: weight.clone() for name, weight in drafter.named_parameters()}
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=3,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(module, datamodule=Feed(config, rows, None, taps))
    assert set(trainer.logged_metrics) >= {f"train/{loss}", f"gradient_norm/{loss}"}
    assert all(torch.isfinite(value) for value in trainer.logged_metrics.values())
    assert any(not torch.equal(weight, before[name]) for name, weight in drafter.named_parameters())


def test_one_law_against_itself_has_no_distance(tmp_path):
    """A drafter whose states are the verifier's own: the shift by one slot is right, or the distance is not 0."""
    family = "llama"
    verifier, rows = make_verifier(family), make_rows_of(family)
    config = recipe(tmp_path, "losses.forward_kl.weight=1", "losses.total_variation.weight=1")
    module = DrafterModule(config, make_drafter(verifier), verifier, [])
    module.trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = with_taps(Steps(rows, None, config)[0], module)
    size = module.drafter.block_size
    final = verifier.states(batch.rows.ids, LAYERS)[..., 128:]

    def echo(block, taps, anchors, documents):
        behind = torch.zeros_like(block)
        behind[:, :, 1:] = slots_before(final, anchors, size)
        return behind

    module.drafter.forward = echo
    scores = module.scores(batch)
    assert scores.valid.any()
    torch.testing.assert_close(scores.forward_kl[scores.valid], torch.zeros(int(scores.valid.sum())), rtol=0, atol=1e-5)
    assert scores.hit[scores.valid].all()  # greedy answers


@pytest.mark.parametrize("vocabulary", [None, range(0, 64, 2)], ids=["full", "half"])
def test_labels_may_be_the_verifiers_argmax_behind_any_text(vocabulary, tmp_path):
    """Rows that it did not write: a drafter whose states are the verifier's own hits its argmax everywhere."""
    verifier = make_verifier("llama")
    ids = torch.randint(3, verifier.head.shape[0], (3, 12), generator=torch.Generator().manual_seed(1))
    rows = [Row.of(each[:4], each[4:]) for each in ids.tolist()]
    config = recipe(tmp_path, "training.labels=verifier", "training.sampled_tokens=0")
    drafter = make_drafter(verifier)
    drafter.vocabulary = None if vocabulary is None else torch.tensor(list(vocabulary))
    module = DrafterModule(config, drafter, verifier, [])
    module.trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    batch = with_taps(Steps(rows, None, config)[0], module)
    size = drafter.block_size
    final = verifier.states(batch.rows.ids, LAYERS)[..., 128:]

    def echo(block, taps, anchors, documents):
        behind = torch.zeros_like(block)
        behind[:, :, 1:] = slots_before(final, anchors, size)
        return behind

    drafter.forward = echo
    scores = module.scores(batch)
    assert scores.valid.any()
    assert scores.hit[scores.valid].all()
    module.config = recipe(tmp_path, "training.sampled_tokens=0")
    assert not module.scores(batch).hit[scores.valid].all()


def test_a_part_of_the_vocabulary_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"drafter\.vocabulary='answers': .*\(lk\).*; set drafter\.vocabulary=full"):
        recipe(tmp_path, "losses.lk.weight=1", "drafter.vocabulary=answers")


def test_temperature_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match=r"training\.temperature=0"):
        recipe(tmp_path, "training.temperature=0")
