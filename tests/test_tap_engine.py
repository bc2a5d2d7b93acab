"""Taps from a server: the verifier's own, asked for again, waited for, or one line that says what is wrong."""

import threading
import time

import pytest
import torch
from conftest import make_answers, make_prompts, make_verifier
from safetensors.torch import load_file
from state_server import serve
from test_tap_files import LAYERS, WIDTH, make_rows, outputs, with_nan
from torch.utils.data import Dataset

from drafter.check import check
from drafter.commands.endings import run_ending
from drafter.config import AlignmentConfig, load, load_as
from drafter.config.tap_engine import TapEngineConfig
from drafter.data.packing import pad_packed
from drafter.data.rows import Row, pad
from drafter.engine.client import Gone
from drafter.export.record import read_record
from drafter.taps import StateServer, TapsElsewhere
from drafter.taps.trust import check_states
from drafter.training.batches.loader import loader
from drafter.training.prepare import check_answers
from drafter.training.runs.alignment import train
from drafter.verifier import Verifier, VerifierHead, tiny

HELD = [2, 4, 6]  # vLLM's numbers of the layers 1 and 3, and of the last


def states(ids, layers=HELD):
    return outputs(make_verifier("llama"), ids)[:, layers].clone()


def ends(verifier):
    """The verifier without its layers."""
    head = VerifierHead(verifier.model, verifier.tokenizer)
    assert not isinstance(head, Verifier)
    return head


def opened(server, rows=None, final=True, verifier=None, greedy=False, check=True, **settings):
    verifier, rows = verifier or make_verifier("llama"), rows or make_rows()
    given = TapEngineConfig(url=server.url, **{"patience": 0.0, "retries": 1} | settings)
    made = StateServer(given, "tiny", LAYERS, "prenorm", WIDTH, first_wait=0.01)
    taps = TapsElsewhere(made, verifier, rows, LAYERS, final)
    if check:
        check_states(taps, verifier, rows, greedy)
    return taps


@pytest.mark.parametrize("keep", [False, True])
def test_taps_are_the_verifiers(tmp_path, keep):
    rows, verifier = make_rows(), make_verifier("llama")
    with serve(states, tmp_path) as server:
        taps = opened(server, keep=keep, path=str(tmp_path), concurrency=2)
        found = taps(pad(rows), [[0], [1], [2], [3]])
        for at, row in enumerate(rows):
            true = verifier.states(torch.tensor([row.ids]), LAYERS)[0]
            torch.testing.assert_close(found[at, : len(row.ids)], true, rtol=1e-5, atol=1e-5)
            assert (found[at, len(row.ids) :] == 0).all()
        packed = taps(pad_packed([[rows[0], rows[2]], [rows[1]]]), [[0, 2], [1]])
        assert torch.equal(packed[0, :26], torch.cat([found[0, :9], found[2, :17]]))
        assert len(list(tmp_path.iterdir())) == (4 if keep else 0)
        assert server.busiest <= 2
        if keep:
            assert sorted(map(len, server.asked)) == [9, 17, 23, 30]
        asked = len(server.asked)
        again = opened(server, keep=keep, path=str(tmp_path))
        assert torch.equal(again.padded([0, 1, 2, 3]), found)
        assert len(server.asked) == (asked if keep else asked + 7)
        taps.close()


def short(tensors):
    return {name: each[:-3] for name, each in tensors.items()}


@pytest.mark.parametrize(
    "fault",
    ["missing", "truncated", short, "hang up", 503],
    ids=["missing", "truncated", "short", "hang up", "503"],
)
def test_what_is_missing_or_short_is_asked_for_again(tmp_path, fault):
    with serve(states, tmp_path) as server:
        server.faults = [fault]
        found = opened(server, make_rows(1), check=False).padded([0])
        assert torch.equal(found, opened(server, make_rows(1)).padded([0]))
        assert len(server.asked) == 4
        assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors"}


def changed(change):
    return lambda tensors: tensors | {"hidden_states": change(tensors["hidden_states"])}


def normed(found):
    return torch.cat([found[:, :-1], make_verifier("llama").norm(found[:, -1:])], dim=1)


FAULTS = {
    "2 of the row's 9 tokens": lambda tensors: {name: each[:2] for name, each in tensors.items()},
    "is cut off or no safetensors file": "truncated",
    "is gone": "missing",
    "holds other token ids than the row, from token 0 on": lambda tensors: tensors | {"token_ids": torch.arange(9)},
    "holds 2 layers, not 3": changed(lambda found: found[:, :2]),
    "is 63 wide, the verifier 64": changed(lambda found: found[..., :-1]),
    "has NaN or infinite numbers, first at token 3": changed(with_nan),
    "is torch.int32 without scales": changed(torch.Tensor.int),
    "writes no hidden states; start it as `drafter engine RECIPE --states FOLDER` says": "plain",
    "writes no hidden states; start": "a list",
    "refuses": 400,
    "no answer for 0 s": 500,
    "HTTP 404": 404,
}


@pytest.mark.parametrize("said", FAULTS)
def test_what_is_wrong_with_an_answer_is_named_in_a_line(tmp_path, said):
    with serve(states, tmp_path) as server:
        server.faults = [FAULTS[said]] * 2
        with pytest.raises(ValueError) as caught:
            opened(server, make_rows(1))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "data.tap_engine" in str(caught.value) or "hidden states: " in str(caught.value)


def off_by_one(ids):
    return states(ids, [1, 3, 5])


def of_another(ids):
    return outputs(Verifier(*tiny.build("llama", seed=1)), ids)[:, HELD]


WRONG = {  # what the server writes → what is said with the layers here, and without them
    "off by one": (off_by_one, "layer 1 differs .* it is layer 0's", "last states give"),
    "normed": (lambda ids: normed(states(ids)), *["are behind the final norm, and not before it"] * 2),
    "the embedding": (lambda ids: states(ids, [0, 2, 6]), "layer 1 differs", "layer 1 is the embedding"),
    "one twice": (lambda ids: states(ids, [2, 2, 6]), "layer 3 differs .* it is layer 1's", "layer 1 is layer 3"),
    "another verifier's": (of_another, "layer 1 differs", "last states give"),
}


@pytest.mark.parametrize("body", ["here", "none"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_states_are_found_before_a_step_with_or_without_the_layers(tmp_path, name, body):
    write, here, none = WRONG[name]
    verifier = make_verifier("llama")
    rows = make_rows(3) if body == "here" else greedy_rows()
    with serve(write, tmp_path) as server:
        with pytest.raises(ValueError, match=here if body == "here" else none) as caught:
            opened(server, rows, verifier=verifier if body == "here" else ends(verifier), greedy=True)
    assert "\n" not in str(caught.value)


def greedy_rows():
    pairs = zip(make_prompts(), make_answers("llama"), strict=True)
    return [Row.of(prompt, answer, f"{at}.py") for at, (prompt, answer) in enumerate(pairs)][:3]


def test_right_states_pass_without_the_layers(tmp_path):
    verifier = make_verifier("llama")
    with serve(states, tmp_path) as server:
        opened(server, greedy_rows(), verifier=ends(verifier), greedy=True)


def test_answers_of_another_verifier_are_refused_without_the_layers(tmp_path, tiny_words, caplog):
    verifier = make_verifier("llama")
    recipe, *words = tiny_words(tmp_path)
    config = load_as(AlignmentConfig, recipe, words)
    ours = {"verifier": verifier.fingerprint(), "verifier_ends": VerifierHead.fingerprint(verifier)}
    check_answers(config, ends(verifier), ours)
    check_answers(config, ends(verifier), {})
    with pytest.raises(ValueError, match=r"written by another verifier \(ends-0, not ends-"):
        check_answers(config, ends(verifier), {**ours, "verifier_ends": "ends-0"})
    assert not caplog.messages
    check_answers(config, ends(verifier), {"verifier": verifier.fingerprint()})  # of an older version
    assert "records no more of its verifier's ends than the tokenizer" in caplog.text


def test_batches_are_made_ahead_in_their_order():
    begun, gate = [], threading.Event()

    class Slow(Dataset):
        def __getitem__(self, number):
            begun.append(number)
            if number > 3:
                gate.wait(10)
            return number

    batches = iter(loader(Slow(), 2, 8, ahead=2))
    assert next(batches) == 2
    deadline = time.monotonic() + 10
    while len(begun) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert sorted(begun) == [2, 3, 4]  # the one asked for, and two more
    gate.set()
    assert list(batches) == [3, 4, 5, 6, 7]
    assert sorted(begun) == [2, 3, 4, 5, 6, 7]


@pytest.fixture
def recipe(tiny_words, tmp_path):
    """A function: name, server → the recipe of a short run on its taps, without the verifier's layers."""

    def made(name, server, *more):
        steps = ["training.max_steps=6", "training.validate_every=3", "training.precision=float32"]
        steps += ["data.tap_engine.prefetch=1", "data.validation_rows=4", "data.test_rows=4"]
        engine = ["data.taps=engine", f"data.tap_engine.url={server.url}", "verifier.body=none", "drafter.start=random"]
        words = tiny_words(tmp_path, f"name={name}", *steps, *engine, *more)
        return load(words[0], words[1:])

    return made


def held(layers):
    """What a server writes that was started for a recipe: the tapped layers, and the last one."""
    return lambda ids: states(ids, [*(layer + 1 for layer in layers), 6])


def test_a_run_waits_for_its_server_or_ends_with_a_checkpoint_and_goes_on(recipe, tmp_path):
    layers = [1, 2, 3]
    with serve(held(layers), tmp_path / "a") as server:
        config = recipe("calm", server, f"drafter.tap_layers={layers}")
        calm = train(config)
        total, port = len(server.asked), server.server_port
        assert not list((tmp_path / "a").iterdir())

    more = [f"drafter.tap_layers={layers}", "data.tap_engine.patience=0.3", "data.tap_engine.retries=0"]
    with serve(held(layers), tmp_path / "b", port) as server:
        killer = threading.Event()
        at = total - 13  # some steps before the end
        server.on_request = lambda number: killer.set() if number == at else None
        watch = threading.Thread(target=lambda: (killer.wait(60), server.end()), daemon=True)
        watch.start()
        with pytest.raises(Gone, match=r"no answer for 0\.3 s .*nothing is lost: start it, then give the same command"):
            train(recipe("torn", server, *more))
        watch.join()
    begun = torch.load(tmp_path / "torn/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert 0 < begun < 6
    with serve(held(layers), tmp_path / "c", port) as server:  # it came back
        server.faults = ["hang up", 503]
        torn = train(recipe("torn", server, *more))
    assert torn["tokens_per_cycle"] == calm["tokens_per_cycle"]
    ours, theirs = (load_file(tmp_path / name / "export/model.safetensors") for name in ("calm", "torn"))
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())
    assert "speedup" not in calm
    said = run_ending(tmp_path / "calm", "V", calm)
    assert "nothing decoded (verifier.body='none')" in said
    assert "drafter check" in said
    assert "--static" in said
    export = str(tmp_path / "calm/export")
    assert check(export, "tiny-llama", dynamic=False).ok
    assert make_verifier("llama").is_of(read_record(tmp_path / "calm/export")["verifier"])
