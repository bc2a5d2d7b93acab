"""What a training step scores, slot by slot in float64: inputs, labels, weights of the head, the verifier's law."""

import copy
import logging
from types import SimpleNamespace

import naive
import pytest
import torch
from conftest import MASK_TOKEN, NEW_TOKENS, make_answers, make_drafter, make_prompts, make_verifier, with_taps

from drafter.blocks import slot_labels
from drafter.config import load
from drafter.data.rows import Row, pad
from drafter.taps import LocalTaps, TapCache
from drafter.training.batches import Steps
from drafter.training.batches.feed import Feed
from drafter.training.checkpoints import read_checkpoint
from drafter.training.fitting import fit
from drafter.training.head import Head
from drafter.training.logs import Metrics
from drafter.training.module import MONITOR, DrafterModule
from drafter.training.pictures import read_metrics
from drafter.training.prepare import start
from drafter.training.watched import Watched, tokens_of_whole_blocks
from drafter.verifier.output import OutputHead
from losses import BlockScores

PACKING = {"padded": [], "packed": ["data.packing=true", "data.sequence_length=128", "training.rows=2"]}


@pytest.fixture(scope="module")
def rows():
    pairs = zip(make_prompts(), make_answers("llama"), strict=True)
    return [Row.of(prompt, answer[: NEW_TOKENS - 5 * i]) for i, (prompt, answer) in enumerate(pairs)]


@pytest.fixture
def make(tiny_words, tmp_path):
    """A function: overrides, drafter → module and config, as a run would make them, without the run."""

    def module(drafter, *overrides):
        recipe, *words = tiny_words(tmp_path, "training.rows=3", "training.anchors=6", *overrides)
        config = load(recipe, words)
        made = DrafterModule(config, drafter, make_verifier("llama"), [])
        made.trainer = SimpleNamespace(precision="32-true")
        return made, config

    return module


def every_slot(drafter, batch):
    """(row, block, slot, label, logits in float64) of every slot that has something to predict."""
    verifier = make_verifier("llama")
    head = verifier.head.double()
    documents = batch.rows.documents
    for row in range(len(batch.rows.ids)):
        for block, place in enumerate(batch.anchors[row].tolist()):
            own = slice(None) if documents is None else documents[row] == documents[row, place]
            anchor = place if documents is None else place - int(own.nonzero()[0])
            ids, supervised = batch.rows.ids[row, own], batch.rows.supervised[row, own].tolist()
            labels = naive.slot_labels(ids.tolist(), supervised, anchor, batch.used[row, block], drafter.block_size)
            if labels:
                taps = verifier.taps(ids[None], drafter.tap_layers)[0]
                held = torch.tensor([int(ids[anchor])] + [MASK_TOKEN] * (drafter.block_size - 1))
                hidden = naive.fill_block(drafter, verifier.embed(held), taps[:anchor], anchor)
                for slot, label in enumerate(labels):
                    yield row, block, slot, label, head @ hidden[slot + 1]


@pytest.mark.parametrize("packing", PACKING)
@pytest.mark.parametrize("taps", ["online", "cached"])
def test_slot_k_is_scored_on_the_token_at_anchor_plus_k(rows, make, tmp_path, taps, packing):
    drafter = make_drafter(make_verifier("llama"))
    module, config = make(drafter, *PACKING[packing])
    cache = TapCache(make_verifier("llama"), rows, drafter.tap_layers, tmp_path) if taps == "cached" else None
    steps = Steps(rows, cache, config)
    for number in (0, 1):
        scores = module.scores(with_taps(steps[number], module))
        seen = torch.zeros_like(scores.valid)
        for row, block, slot, label, logits in every_slot(drafter, steps[number]):
            seen[row, block, slot] = True
            assert scores.nll[row, block, slot].item() == pytest.approx(-logits.log_softmax(-1)[label].item(), rel=1e-3)
            assert scores.hit[row, block, slot] == (logits.argmax() == label)
        assert torch.equal(seen, scores.valid)
        assert seen.sum() > 20
        assert not seen.all()


@pytest.mark.parametrize("packing", PACKING)
@pytest.mark.parametrize("taps", ["online", "cached"])
def test_laws_are_compared_where_the_verifier_predicts_the_slots_token(rows, make, tmp_path, taps, packing):
    drafter = make_drafter(make_verifier("llama"))
    words = ["losses.forward_kl.weight=1", "drafter.vocabulary=full", "training.temperature=2"]
    module, config = make(drafter, *words, *PACKING[packing])
    verifier = make_verifier("llama")
    cache = TapCache(verifier, rows, drafter.tap_layers, tmp_path, final=True) if taps == "cached" else None
    batch = with_taps(Steps(rows, cache, config)[0], module)
    scores = module.scores(batch)
    wide = naive.wide(verifier.model)
    for row, block, slot, _, logits in every_slot(drafter, batch):
        before = int(batch.anchors[row, block]) + slot  # slot + 1 predicts the token behind this one
        documents = batch.rows.documents
        first = 0 if documents is None else int((documents[row] == documents[row, before]).nonzero()[0])
        theirs = wide(input_ids=batch.rows.ids[row : row + 1, first : before + 1]).logits[0, -1]
        expected, found = (theirs / 2).softmax(-1), (logits / 2).log_softmax(-1)
        divergence = (expected * (expected.log() - found)).sum()
        assert scores.forward_kl[row, block, slot].item() == pytest.approx(divergence.item(), rel=2e-3)


def test_a_draft_vocabulary_is_scored_through_its_head(rows, make):
    drafter = make_drafter(make_verifier("llama"))
    drafter.vocabulary = torch.arange(0, 288, 2)
    module, config = make(drafter, "training.sampled_tokens=0")
    batch = with_taps(Steps(rows, None, config)[0], module)
    scores = module.scores(batch)
    slots = list(every_slot(drafter, batch))
    scored = sorted({*drafter.vocabulary.tolist(), *(label for *_, label, _ in slots)})
    for row, block, slot, label, logits in slots:
        law = logits[scored].log_softmax(-1)
        assert scores.nll[row, block, slot].item() == pytest.approx(-law[scored.index(label)].item(), rel=1e-3)


def test_the_gradient_reaches_all_of_the_drafter_and_nothing_of_the_verifier(rows, make):
    drafter = make_drafter(make_verifier("llama"))
    module, config = make(drafter)
    total, _ = config.losses(module.scores(with_taps(Steps(rows, None, config)[0], module)))
    total.backward()
    assert all(weight.grad.abs().sum() > 0 for weight in drafter.parameters())
    assert all(weight.grad is None for weight in make_verifier("llama").model.parameters())
    assert [name for name, _ in module.named_parameters()] == [
        f"drafter.{name}" for name, _ in drafter.named_parameters()
    ]


def anchors_of(batches):
    """Of each document in batches, its anchors, by its ids."""
    found = {}
    for batch in batches:
        rows, documents = batch.rows, batch.rows.documents
        for row in range(len(rows.ids)):
            for number in [0] if documents is None else range(int(documents[row].max()) + 1):
                own = rows.ids[row] >= 0 if documents is None else documents[row] == number
                begin, length = int(own.int().argmax()), int((own & (rows.ids[row] > 0)).sum())
                held = batch.anchors[row][batch.used[row]]
                inside = held[(held >= begin) & (held < begin + length)] - begin
                found[tuple(rows.ids[row, begin : begin + length].tolist())] = inside.tolist()
    return found


@pytest.mark.parametrize("packing", PACKING)
def test_a_step_is_the_same_whoever_shares_it(make, packing):
    """Its rows and their anchors follow seed, epoch and step: not ranks, not micro-batches, not what stands beside."""
    pairs = zip(make_prompts() * 3, make_answers("llama") * 3, strict=True)
    rows = [Row.of([3 + number, *prompt], answer) for number, (prompt, answer) in enumerate(pairs)]
    drafter, packed = make_drafter(make_verifier("llama")), PACKING[packing]

    def step(number, rows_of_a_batch, world=1, accumulate=1, *words):
        sizes = [f"training.rows={rows_of_a_batch}", f"training.accumulate={accumulate}"]
        _, config = make(drafter, *packed, *sizes, *words)
        made = [Steps(rows, None, config, rank, world) for rank in range(world)]
        return [each[number * accumulate + part] for each in made for part in range(accumulate)]

    for number in (0, 1, 7):
        whole = anchors_of(step(number, 4))
        assert len(whole) >= 4
        assert sum(map(len, whole.values())) > 10
        for shares in ((2, 2, 1), (2, 1, 2), (1, 2, 2)):
            parts = step(number, *shares)
            assert sum(len(batch.rows.ids) for batch in parts) == 4
            assert anchors_of(parts) == whole
        assert anchors_of(step(number, 4, 1, 1, "seed=1")) != whole


def test_anchors_are_drawn_anew_in_every_epoch(rows, make):
    _, config = make(make_drafter(make_verifier("llama")), "training.rows=6")
    one, again = Steps(rows, None, config), Steps(rows, None, config)
    first, second = (anchors_of([one[epoch]]) for epoch in (0, 1))
    assert first == anchors_of([again[0]])
    assert first.keys() == second.keys()
    assert sum(first[row] != second[row] for row in first) >= 4  # the shortest have only so many places


def test_ranks_get_rows_of_every_length(rows, make):
    """A rank with the shortest rows would wait for the one with the longest, step by step."""
    many = [Row.of([3 + number], [5] * (4 + number)) for number in range(64)]
    _, config = make(make_drafter(make_verifier("llama")), "training.rows=8")
    ranks = [Steps(many, None, config, rank, world=2) for rank in range(2)]
    lengths = [[int(each[step].rows.supervised.sum()) for step in range(4)] for each in ranks]
    assert all(abs(one - other) <= 16 for one, other in zip(*lengths, strict=True))


def test_the_slots_of_a_step_are_the_mean_over_its_micro_batches(rows, make):
    _, config = make(make_drafter(make_verifier("llama")), "training.rows=2", "training.accumulate=3")
    batches = list(Feed(config, rows, None, LocalTaps(make_verifier("llama"), [1, 3])).loader(0, 0, 6))
    for step in (batches[:3], batches[3:]):
        valid = [
            slot_labels(b.rows.ids, b.rows.supervised, b.anchors, b.used, config.drafter.block_size)[1] for b in step
        ]
        expected = sum(each.sum((0, 1)).double() for each in valid) / 3
        assert all(torch.equal(batch.slots, expected) for batch in step)


def test_a_sample_of_the_vocabulary_follows_the_recipes_seed_and_the_step(rows, make, monkeypatch):
    """Micro-batches and ranks of a step share it."""
    seeds = []
    draw = Head.draw
    monkeypatch.setattr(Head, "draw", lambda self, *args: seeds.append(args[2]) or draw(self, *args))
    for seed in (0, 1):
        module, config = make(make_drafter(make_verifier("llama")), "training.accumulate=2", f"seed={seed}")
        steps = Steps(rows * 4, None, config)
        for number in (0, 1, 2):
            module.scores(with_taps(steps[number], module))
    assert seeds[0] == seeds[1] != seeds[2]
    assert not set(seeds[:3]) & set(seeds[3:])


def test_a_token_that_pads_rows_is_refused_as_a_mask(rows, make, monkeypatch):
    verifier = make_verifier("llama")
    _, config = make(make_drafter(verifier))
    start(config, verifier, rows)
    monkeypatch.setattr(verifier.config, "pad_token_id", MASK_TOKEN)
    with pytest.raises(ValueError, match=r"drafter\.mask_token_id=2: is the verifier's pad token; choose an id that"):
        start(config, verifier, rows)


def test_taps_keep_their_dtype_in_mixed_precision(rows, make, monkeypatch):
    """A wider copy of them would take twice their memory."""
    module, config = make(make_drafter(make_verifier("llama")))
    batch = with_taps(Steps(rows, None, config)[0], module)
    batch = batch._replace(taps=batch.taps.bfloat16())
    seen, forward = [], module.drafter.forward
    monkeypatch.setattr(module.drafter, "forward", lambda *args: seen.append(args[1]) or forward(*args))
    module.trainer.precision = "bf16-mixed"
    with torch.autocast("cpu", torch.bfloat16):
        module.scores(batch)
    assert seen[0].dtype is torch.bfloat16
    assert seen[0].data_ptr() == batch.taps.data_ptr()


def test_a_walk_makes_its_head_once(rows, make, monkeypatch):
    """It may be a copy of the verifier's, in another dtype or of a part of the vocabulary."""
    drafter = make_drafter(make_verifier("llama"))
    drafter.vocabulary = torch.arange(0, 288, 2)
    module, _ = make(drafter)
    made, to = [], OutputHead.to
    monkeypatch.setattr(OutputHead, "to", lambda head, dtype: made.append(len(head.weight)) or to(head, dtype))
    batches = [(pad([row]), make_verifier("llama").taps(torch.tensor([row.ids]), [1, 3]).clone()) for row in rows[:3]]
    together = module.leading(batches)
    assert made == [144]
    assert together == [row for batch in batches for row in module.leading([batch])]
    assert module.leading([]) == []
    assert len(made) == 4


def gradients(rows, make, *words):
    """Of a step of a drafter that training has made its own, by name, and how many numbers its forward pass keeps."""
    drafter = make_drafter(make_verifier("llama"))
    module, config = make(drafter, *words)
    module.configure_model()
    batch, kept = with_taps(Steps(rows, None, config)[0], module), []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each.numel()) or each, lambda each: each):
        total, _ = config.losses(module.scores(batch))
    total.backward()
    return {name: weight.grad for name, weight in drafter.named_parameters()}, sum(kept)


def test_activations_that_are_computed_again_give_the_same_gradients(rows, make):
    whole, most = gradients(rows, make)
    found, kept = gradients(rows, make, "training.checkpointing=true")
    assert all(torch.equal(found[name], gradient) for name, gradient in whole.items())
    assert kept < 0.6 * most


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_gradients(rows, make):
    whole, _ = gradients(rows, make)
    found, _ = gradients(rows, make, "training.compile=true")
    for name, gradient in whole.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item())


def test_only_passes_with_a_gradient_are_compiled(rows, make, monkeypatch):
    drafter, calls = make_drafter(make_verifier("llama")), []
    monkeypatch.setattr("drafter.models.layers._compiled", lambda run: lambda *inputs: calls.append(1) or run(*inputs))
    gradients(rows, lambda _, *words: make(drafter, *words), "training.compile=true")
    assert len(calls) == len(drafter.layers)
    with torch.no_grad():
        walking = copy.deepcopy(drafter)
        size, width = drafter.block_size, drafter.config.hidden_size
        walking(torch.zeros(1, 2, size, width), torch.zeros(1, 9, drafter.fc.in_features), torch.tensor([[2, 5]]))
    assert len(calls) == len(drafter.layers)


def test_blocks_that_their_answers_end_cuts_do_not_count_as_short(rows):
    valid = torch.tensor([[[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]]]).bool()
    hit = torch.tensor([[[1, 1, 1], [1, 0, 1], [1, 1, 0], [0, 0, 0]]]).bool()
    tokens, blocks = tokens_of_whole_blocks(BlockScores(torch.zeros(hit.shape), hit, valid))
    assert (tokens, blocks) == (4 + 2, 2)


def test_what_is_watched_is_the_mean_over_micro_batches():
    watched = Watched()
    for loss, tokens, blocks in ((1.0, 3, 1), (3.0, 5, 3)):
        figures = {"a": torch.tensor(loss / 2)}
        watched.add(torch.tensor(loss), figures, figures, (torch.tensor(tokens), torch.tensor(blocks)))
    found = watched.take()
    assert found == {"loss": 2.0, "train/a": 1.0, "gradient_norm/a": 1.0, "tokens_per_block": 2.0}
    watched.add(torch.tensor(7.0), {}, {}, (torch.tensor(1), torch.tensor(1)))
    assert watched.take()["loss"] == 7.0


def test_where_no_block_is_whole_nothing_is_said_of_them_but_that(caplog):
    watched = Watched()
    with caplog.at_level(logging.INFO, "drafter"):
        for _ in range(2):
            watched.add(torch.tensor(7.0), {}, {}, (torch.tensor(0), torch.tensor(0)))
            assert watched.take() == {"loss": 7.0}
    assert len(caplog.messages) == 1
    assert "no block of a logged step is whole" in caplog.text


def test_what_is_told_of_a_step_is_that_steps_alone(rows, make, tmp_path):
    """The last one is of a step behind a validation. What is logged of a step is that step's, too."""
    verifier = make_verifier("llama")
    drafter = make_drafter(verifier)
    words = "training.max_steps=3", "training.validate_every=2", "training.loggers=[]", "training.log_every=2"
    module, config = make(drafter, *words)
    step, losses = module.training_step, []
    module.training_step = lambda *batch: losses.append(step(*batch)) or losses[-1]
    taps = LocalTaps(verifier, drafter.tap_layers)
    module._validation = [(pad(rows), taps(pad(rows)))]
    best = fit(module, Feed(config, rows, None, taps), tmp_path / "run", config.training, MONITOR)
    logged = [record for record in read_metrics(Metrics(tmp_path / "run").merged()) if record["loss"]]
    assert [(record["step"], float(record["loss"])) for record in logged] == [("1", losses[1].item())]
    told = {path.stem: read_checkpoint(path) for path in (best, best.with_name("last.ckpt"))}
    assert {name: one["global_step"] for name, one in told.items()} == {"best": 2, "last": 3}
    assert told["best"]["drafter"]["tokens_per_cycle"] >= 1
    assert told["last"]["drafter"]["tokens_per_cycle"] is None


def test_learning_rates_rise_then_fall_to_zero(rows, make):
    module, config = make(make_drafter(make_verifier("llama")), "training.warmup=0.1", "training.max_steps=40")
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]
    rates = []
    for _ in range(41):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    assert schedule["interval"] == "step"
    peak = config.training.learning_rate
    assert rates[:4] == pytest.approx([peak * step / 4 for step in (1, 2, 3, 4)])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[22] == pytest.approx(peak / 2)
    assert rates[40] == pytest.approx(0, abs=1e-9)


def test_padding_is_no_context(rows, make):
    """A row scores alone as it does beside a longer one."""
    module, config = make(make_drafter(make_verifier("llama")))
    batch = with_taps(Steps(rows, None, config)[0], module)
    whole = module.scores(batch)
    for row in range(3):
        length = int(batch.rows.supervised[row].nonzero().max()) + 1
        start, ids = int(batch.rows.supervised[row].int().argmax()), batch.rows.ids[row, :length].tolist()
        alone = pad([Row(ids, ((start, length),))])
        part = batch._replace(
            rows=alone, anchors=batch.anchors[row : row + 1], used=batch.used[row : row + 1], taps=None
        )
        torch.testing.assert_close(module.scores(with_taps(part, module)).nll[0], whole.nll[row], rtol=1e-4, atol=1e-4)
