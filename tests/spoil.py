"""Ways of spoiling an export, each with the rule by which `check` must name what was done."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from drafter.layouts import MISSING, get
from drafter.layouts.base import put
from drafter.verifier import tiny


@dataclass(frozen=True)
class Defect:
    """How to break an export, and the rule of the finding that must name it."""

    spoil: Callable[[Path], None]
    rule: str
    layout: str = "canonical"
    dynamic: bool = False
    verifier: Callable[[Path], str] | None = None


def edit(name, change):
    def spoil(directory):
        path = directory / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def field(path, value, layout="canonical", rule=None):
    def change(config):
        if value is not MISSING:
            put(config, path, value)
            return
        folder, _, last = path.rpartition(".")
        del (get(config, folder) if folder else config)[last]

    return Defect(edit("config.json", change), rule or path, layout)


def tensors(change, rule, layout="canonical"):
    def spoil(directory):
        found = load_file(directory / "model.safetensors")
        changed = {**found, **change(found)}
        kept = {name: value.contiguous().clone() for name, value in changed.items() if value is not None}
        save_file(kept, directory / "model.safetensors")

    return Defect(spoil, rule, layout)


def file(name, content, rule=None, layout="canonical"):
    def spoil(directory):
        path = directory / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)

    return Defect(spoil, rule or name, layout)


def unrecorded(defect):
    """The same, in an export that carries no facts and no checksums: only what it does can give it away."""

    def spoil(directory):
        defect.spoil(directory)
        edit("training.json", lambda record: [record.pop(key) for key in ("facts", "sha256")])(directory)

    return Defect(spoil, "tokens_per_cycle", defect.layout, dynamic=True)


def other_verifier(rule, change=None, family="qwen3", seed=0, dynamic=False, rename=None):
    """A good export beside a verifier that is not its own."""

    def make(folder):
        model, tokenizer = tiny.build(family, seed)
        if change is not None:
            model = type(model)(change(model.config))
        if rename is not None:
            tokenizer.add_special_tokens({"additional_special_tokens": [rename]})
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return Defect(lambda _: None, rule, dynamic=dynamic, verifier=make)


def widened(config):
    config.hidden_size = 128
    return config


def rebased(config):
    config.rope_parameters = {"rope_type": "default", "rope_theta": 5e5}
    return config


def poked(name, value):
    def change(found):
        wrong = found[name].clone()
        wrong.view(-1)[5] = value
        return {name: wrong}

    return tensors(change, name)


def renamed(found, prefix):
    return {**{name: None for name in found}, **{f"{prefix}{name}": value for name, value in found.items()}}
