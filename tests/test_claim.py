"""A run's directory is taken for one recipe: settings that decide no number may change, all others may not."""

import os
import signal
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT

from drafter.ablation.shared import Shared
from drafter.config import FittingConfig, RunConfig, load, load_as
from drafter.machine import precision
from drafter.training.claim import begun_in, claim, deciding


@pytest.fixture
def begun(tmp_path):
    """A function: overrides → the recipe of a run, claimed again after 30 of its steps."""

    def recipe(*words):
        return load(ROOT / "recipes/tiny.yaml", [f"output={tmp_path}", "training.max_steps=100", *words])

    def start(*words):
        directory = claim(recipe(*words))
        (directory / "checkpoints").mkdir()
        torch.save({"global_step": 30}, directory / "checkpoints/last.ckpt")
        return lambda *more: claim(recipe(*words, *more))

    return start


@pytest.mark.parametrize(
    "word",
    [
        "training.workers=2",
        "training.log_every=1; training.loggers=[]",
        "training.validate_every=7",
        "training.strategy=ddp",
        "training.max_skipped=3",
        "verifier.attention=sdpa",
        "data.cache.confirm=true",
        "data.server.url=http://localhost:1/v1; data.server.model=a; data.tap_engine.url=http://localhost:2/v1",
        "decoding.prompts=5; decoding.draft_length=2; decoding.max_new_tokens=9",
    ],
)
def test_what_decides_no_number_may_change(begun, word):
    again = begun()
    directory = again(*word.split("; "))
    assert load(directory / "config.yaml") != load(ROOT / "recipes/tiny.yaml")  # the newest is kept


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("seed=1", "seed"),
        ("training.learning_rate=1e-4", "training.learning_rate"),
        ("losses.first_error.weight=0", "losses.first_error.weight"),
        ("data.sequence_length=100; training.clip=2", "data.sequence_length, training.clip"),
        ("training.rows=5", "training.rows"),
        ("drafter.block_size=5", "drafter.block_size"),
    ],
)
def test_what_decides_numbers_is_named(begun, word, named):
    again = begun()
    with pytest.raises(
        ValueError, match=rf"a run of another recipe \(other {named}\); choose another name or delete it"
    ):
        again(*word.split("; "))


@pytest.mark.parametrize("words", [("2", "1", "2"), ("1", "2", "2"), ("1", "1", "4")])
def test_ranks_and_micro_batches_may_share_a_step_otherwise(begun, words):
    again = begun("training.rows=4", "training.precision=float32", "verifier.device=cpu")
    keys = ("training.devices", "training.accumulate", "training.rows")
    again(*(f"{key}={value}" for key, value in zip(keys, words, strict=True)))
    with pytest.raises(ValueError, match=r"other training\.rows"):
        again("training.devices=3")


def others_of(recipe):
    """A function: overrides → the keys in which the recipe then decides otherwise."""

    def of(*words):
        return deciding(asdict(load_as(RunConfig, ROOT / f"recipes/{recipe}.yaml", list(words))))

    def others(*words):
        one, other = of(), of(*words)
        return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}

    return others


def test_what_a_pair_says_of_training_is_weighed_as_training_is():
    others = others_of("diversed_quickstart")
    assert others("pair.training.loggers=[]", "pair.training.keep=1", "training.workers=2") == set()
    assert others("pair.training.clip=2", "pair.layers=3") == {"pair.training.clip", "pair.layers"}


def test_what_stages_say_of_training_is_weighed_as_training_is():
    others = others_of("k_forcing_quickstart")
    shared = ["training.rows=4", "training.accumulate=2", "training.devices=1"]
    for words in (["training.keep=1"], ["training.workers=2", "training.loggers=[]"], shared, ["trial.prompts=3"]):
        assert others(*words) == set()
    assert others("training.clip=2") == {"training.clip", *(f"stages.{at}.clip" for at in range(3))}
    stages = "{tokens_per_pass: 1}, {tokens_per_pass: 2, devices: '2'}, {tokens_per_pass: 4}"
    assert others(f"stages=[{stages}]") == {"stages.1.rows"}


def test_readers_of_a_stream_may_not(begun):
    again = begun("data.streaming=true", "data.taps=online", "training.validate_every=5")
    for word in ("training.workers=2", "training.devices=2", "training.accumulate=2"):
        with pytest.raises(ValueError, match=f"other {word.split('=')[0]}"):
            again(word)


@pytest.mark.parametrize(
    ("schedule", "more", "goes_on"),
    [
        ("cosine", ["training.max_steps=200"], False),
        ("constant", ["training.max_steps=200"], False),  # its warm-up is a share of the steps
        ("constant", ["training.max_steps=200", "training.warmup=0.05"], True),
        ("stable", ["training.max_steps=200", "training.warmup=0.05"], True),
        ("stable", ["training.max_steps=35", "training.warmup=0.286"], False),  # the cool-down had begun
        ("constant", ["training.max_steps=200", "training.warmup=0.05", "seed=1"], False),
    ],
)
def test_a_run_may_end_elsewhere_if_its_steps_had_the_same_learning_rates(begun, schedule, more, goes_on):
    again = begun(f"training.schedule={schedule}", "training.warmup=0.1")
    if goes_on:
        again(*more)
    else:
        with pytest.raises(ValueError, match=r"other .*training\.max_steps"):
            again(*more)


def test_a_fit_goes_on_in_the_precision_that_it_began_in(tmp_path, monkeypatch):
    """`auto` may find another one faster on a busy machine."""

    def begun(faster):
        monkeypatch.setattr(precision, "fastest", lambda device: faster)
        return begun_in(tmp_path / "run", FittingConfig(), "cpu")

    assert begun(torch.bfloat16) is torch.bfloat16
    assert begun(torch.float32) is torch.float32  # nothing was trained yet
    assert begun(torch.bfloat16) is torch.bfloat16
    (tmp_path / "run/pair/checkpoints").mkdir(parents=True)
    assert begun(torch.float32) is torch.bfloat16
    with pytest.raises(ValueError, match=r"training\.precision='auto': of several ranks"):
        begun_in(tmp_path / "other", FittingConfig(devices="2"), "cpu")


def test_so_does_an_arm_that_names_another_than_its_base(tmp_path, monkeypatch):
    config = load(ROOT / "recipes/tiny.yaml", [f"output={tmp_path}", "training.precision=auto"])
    base = load(ROOT / "recipes/tiny.yaml", ["training.precision=float32"])
    shared = SimpleNamespace(base=base, material=SimpleNamespace(fast=torch.float32, device="cpu"))
    for faster in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(precision, "fastest", lambda device, faster=faster: faster)
        assert Shared.precision(shared, config) is torch.bfloat16
        (config.directory / "checkpoints").mkdir(exist_ok=True)
    assert Shared.precision(shared, base) is torch.float32


def test_checkpoints_of_no_recipe_are_left_alone(begun):
    again = begun()
    (again() / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints and no config\.yaml that says of what; choose another"):
        again()


def test_a_run_is_of_one_process_until_it_ends(begun, monkeypatch):
    """Whoever comes second is refused; once the first is killed, its run goes on."""
    again = begun()

    def elsewhere(work):
        """The exit code of a process that does it: 1, where it is refused."""
        child = os.fork()
        if not child:
            try:
                work()
            except ValueError as error:
                os._exit(1 if "another process trains in" in str(error) else 2)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert elsewhere(again) == 1
    again()  # by this one, as often as it likes
    for place in ({"LOCAL_RANK": "1"}, {"LOCAL_RANK": "0", "NODE_RANK": "1"}, {"RANK": "1"}, {"SLURM_PROCID": "1"}):
        with monkeypatch.context() as patch:
            for name, rank in place.items():
                patch.setenv(name, rank)
            assert elsewhere(again) == 0  # another rank of the same training
    reading, writing = os.pipe()

    def hold_until_killed():
        again("name=other")
        os.write(writing, b".")
        os.kill(os.getpid(), signal.SIGSTOP)

    first = os.fork()
    if not first:
        hold_until_killed()
    os.read(reading, 1)
    assert elsewhere(lambda: again("name=other")) == 1
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert elsewhere(lambda: again("name=other")) == 0
    os.close(reading), os.close(writing)
