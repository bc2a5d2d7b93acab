"""A toy of each kind, from outside of the package: a loss, a rule, a drafter, its proposer, a tap source, a system."""

import json
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from conftest import ROOT, make_drafter, make_verifier

from drafter.__main__ import main
from drafter.config import SYSTEMS, AlignmentConfig
from drafter.decode import SpeculativeDecoder
from drafter.decode.proposers import PROPOSERS, Proposal, Proposer
from drafter.evaluation.rewards import REWARDS, Task
from drafter.evaluation.rewards.tasks import TASKS
from drafter.files import write_json
from drafter.models import DRAFTERS, kind_of
from drafter.models.base import Outline
from drafter.taps import LocalTaps
from drafter.training.batches.feed import Feed
from drafter.training.claim import claim
from drafter.training.fitting import fit
from drafter.training.module import MONITOR, DrafterModule
from drafter.training.prepare import batches_of, prepare, taps_of
from drafter.training.runs import RUNS
from drafter.verification import Verification, sample
from losses import Losses
from losses.base import Loss, Term


@dataclass
class Surprise(Loss):
    """A loss: the square of the cross-entropy, at every valid slot."""

    name: ClassVar[str] = "surprise"
    weight: float | None = None

    def __call__(self, scores):
        return Term(scores.nll.square(), scores.valid.to(scores.nll.dtype))


@dataclass
class MoreLosses(Losses):
    surprise: Surprise = field(default_factory=Surprise)


def first_only(draft_ids, draft_probs, verifier_probs, generator, *, draft_length=None):
    """A rule: at most one draft is kept. Law: the verifier's."""
    own = sample(verifier_probs[:, :2], generator)  # [B, 2]
    accepted = (own[:, 0] == draft_ids[:, 0]).long()  # [B]
    if draft_length is not None:
        accepted = accepted.minimum(draft_length)
    return Verification(accepted, own.gather(1, accepted[:, None])[:, 0])


class Parrot:
    """A drafter without weights: it says the anchor again and again."""

    draft_length = longest = 3
    hidden_size = 0
    context_length = None

    @classmethod
    def recognises(cls, config):
        return config.get("architectures") == ["Parrot"]

    @classmethod
    def outline(cls, source):
        return Outline(3, 3)

    @classmethod
    def beside(cls, source, verifier):
        return cls()

    def check_verifier(self, verifier):
        """Any will do."""


class ParrotProposer(Proposer):
    """It keeps nothing and reads nothing."""

    tap_layers = ()

    def __init__(self, verifier, drafter, length):
        self.length, self.size = length, verifier.head.shape[0]

    def new_state(self, batch, tokens):
        nothing = SimpleNamespace(
            set_lengths=lambda lengths: None, copy_row=lambda source, rows, length: None, shrink=lambda rows: None
        )
        nothing.row = lambda index: nothing
        return nothing

    def read(self, state, ids, taps):
        assert taps is None

    def propose(self, state, anchors, law, noise=None, *, laws=False, confidences=False):
        ids = anchors.expand(-1, self.length)  # [B, G]
        probs = torch.nn.functional.one_hot(ids, self.size).float()  # [B, G, V]
        return Proposal(ids, probs if laws else None, None, torch.ones(ids.shape) if confidences else None)

    def commit(self, state, ids, taps, accepted):
        """Nothing to take in."""


class Scaled:
    """A tap source: those of the verifier here, times a number, counted."""

    ahead = False

    def __init__(self, source, scale):
        self.source, self.scale, self.asked, self.closed = source, scale, 0, False

    def __call__(self, rows, packs):
        self.asked += 1
        return self.source(rows, packs) * self.scale

    def close(self):
        self.closed = True


@dataclass
class ToyConfig(AlignmentConfig):
    """The schema of a system: one key more, and one loss."""

    losses: MoreLosses = field(default_factory=MoreLosses)
    tap_scale: float = 1.0


def train(config):
    """The run of that system."""
    directory, material = claim(config), prepare(config)
    drafter, verifier = material.drafter, material.verifier
    rows = material.validation
    validation = batches_of(rows, taps_of(rows, verifier, drafter, "validation rows"))
    taps = Scaled(LocalTaps(verifier, drafter.tap_layers), config.tap_scale)
    module = DrafterModule(config, drafter, verifier, validation)
    fit(module, Feed(config, material.training, None, taps), directory, config.training, MONITOR)
    taps.close()
    summary = {"asked": taps.asked, "closed": taps.closed, "tap_scale": config.tap_scale}
    write_json(directory / "summary.json", summary)
    return summary


@pytest.fixture
def parrot(monkeypatch):
    monkeypatch.setitem(PROPOSERS, Parrot, ParrotProposer)
    monkeypatch.setattr("drafter.models.DRAFTERS", [*DRAFTERS, Parrot])
    return Parrot()


def test_a_system_with_a_loss_and_a_tap_source_trains(tiny_words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SYSTEMS, "toy", ToyConfig)
    monkeypatch.setitem(RUNS, "toy", __name__)
    words = tiny_words(tmp_path, "system=toy", "losses.surprise.weight=0.5", "tap_scale=2.0")
    assert main(["train", *words, "training.max_steps=2", "training.validate_every=2"]) == 0
    assert json.loads((tmp_path / "tiny/summary.json").read_text()) == {"asked": 2, "closed": True, "tap_scale": 2.0}
    assert capsys.readouterr().out.startswith("tiny: finished\n")
    (metrics,) = (tmp_path / "tiny/metrics").glob("*/metrics.csv")
    assert "train/surprise" in metrics.read_text()
    with pytest.raises(SystemExit, match="tap_scal: unknown key; did you mean tap_scale"):
        main(["train", *words, "tap_scal=1"])


@pytest.mark.parametrize("rule", [None, first_only])
def test_a_rule_and_a_drafter_with_its_proposer_decode(prompts, parrot, rule):
    verifier = make_verifier("llama")
    plain = SpeculativeDecoder(verifier).generate(prompts, 12)
    found = SpeculativeDecoder(verifier, parrot, rule=rule).generate(prompts, 12, batch_size=3)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    sampled = SpeculativeDecoder(verifier, parrot, rule=rule).generate(prompts, 12, temperature=1.0, batch_size=2)
    assert all(0 <= kept <= (3 if rule is None else 1) for one in sampled for kept in one.accepted)


def shortness(answers):
    """A reward: the fewer characters, the better."""
    return [-float(len(one.text)) for one in answers]


def riddles(count, seed):
    """A kind of tasks."""
    return [Task(f"riddle {seed} {number}", f"What has {number} legs?", str(number)) for number in range(count)]


def test_a_reward_and_tasks_are_mapped_and_refused_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(REWARDS, "shortness", lambda verifier, limits: shortness)
    monkeypatch.setitem(TASKS, "riddles", riddles)
    few = ["--count", "2", "--seeds", "1", "--max-new-tokens", "3", "--timed", "0", "--draft-length", "1"]
    words = ["frontier", "tiny-llama", "--verifier", "tiny-llama", *few]
    assert main([*words, "--tasks", "riddles", "--reward", "shortness"]) == 0
    shown = capsys.readouterr().out
    assert "| block verification " in shown
    with pytest.raises(SystemExit, match=r"reward='short': no such reward; choose one of .*, shortness"):
        main([*words, "--tasks", "riddles", "--reward", "short"])
    with pytest.raises(SystemExit, match=r"tasks.kind='riddle': choose one of .*, riddles, or name a JSONL file"):
        main([*words, "--tasks", "riddle", "--reward", "shortness"])


def test_a_rule_decodes_with_our_drafter(prompts):
    verifier = make_verifier("llama")
    found = SpeculativeDecoder(verifier, make_drafter(verifier), rule=first_only).generate(prompts[:2], 12)
    assert [one.token_ids for one in found] == [
        one.token_ids for one in SpeculativeDecoder(verifier).generate(prompts[:2], 12)
    ]


def test_a_directory_is_known_by_its_architecture(tmp_path, parrot):
    (tmp_path / "config.json").write_text('{"architectures": ["Parrot"]}')
    assert kind_of(str(tmp_path)) is Parrot


def test_contributing_names_at_most_three_files_for_each():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    parts = dict(re.findall(r"^## (An? .+?)\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE))
    kinds = {"A loss", "A verification rule", "A drafter", "A proposer", "A tap source", "A system"}
    kinds |= {"A reward", "A kind of tasks"}
    assert kinds <= set(parts)
    for part in parts.values():
        files = [re.search(r"`([\w/.]+)`", step)[1] for step in re.findall(r"^\d\. .*$", part, re.MULTILINE)]
        assert 1 <= len(files) <= 3
        assert all((ROOT / name).exists() for name in files if "my_" not in name)
        assert all((ROOT / name).parent.is_dir() for name in files)


def test_four_questions_have_one_path_each():
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Where things are")[1].split("##")[0]
    answers = re.findall(r"^\| .* \| `(.*)` \|$", text, re.MULTILINE)
    assert len(answers) == 4
    assert all((ROOT / path).is_file() for path in answers)
