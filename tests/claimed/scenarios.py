"""What users do, on the device of device.py: each scenario's name → `ok`, or what it ended with; as JSON in a file.

    python tests/claimed/device.py tests/claimed/scenarios.py FOLDER

FOLDER holds `answers.parquet` of the tiny verifier and gets `results.json`. Tiny models: seconds each.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import claimed_device as device
import torch
from torch.nn import functional

from drafter import BlockDiffusionDrafter, CausalDrafter, SpeculativeDecoder, Verifier
from drafter.__main__ import main
from drafter.config import DistillationConfig, load, load_as
from drafter.decode import FreeDecoder
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.probe import probe
from drafter.models import PushForwardModel
from drafter.training.module import DrafterModule
from drafter.training.runs.alignment import train
from drafter.training.runs.distillation import train as distil
from drafter.verification import LOSSLESS

torch.set_num_threads(1)
FOLDER = Path(sys.argv[1])
RECIPE = str(Path(__file__).parents[2] / "recipes" / "tiny.yaml")
SMALL = ("max_steps=3", "validate_every=2", "log_every=100")
PROMPTS = [[5, 40, 77], [9, 8, 7, 100, 31, 64]]
ON = ["--verifier", "tiny-llama", "--device", "cuda"]
RULES = ["lenient:lenience=0.5", "typical_acceptance", "static_ensemble:verifier_weight=0.5"]
RULES += ["variation_budget:budget=0.2"]
ON_A_SUITE = ["--suites", FOLDER / "suite.jsonl", "--max-new-tokens", 8]
ANOTHER_WAY = ["data.taps=online", "data.packing=true", "training.precision=bfloat16", "drafter.vocabulary=full"]
ANOTHER_WAY += ["losses.forward_kl.weight=0.1", "training.rows=2"]
TOKENS = 8
probe.__defaults__ = (TOKENS,)  # of an answer: on this device each token takes tens of milliseconds


def recipe(name: str, *words: str) -> list[str]:
    shared = [f"training.{one}" for one in SMALL]
    places = [f"output={FOLDER}", f"data.answers={FOLDER / 'answers.parquet'}", "decoding.max_new_tokens=8"]
    return [RECIPE, f"name={name}", "verifier.device=cuda", "decoding.prompts=1", *places, *shared, *words]


def run(name: str, *words: str) -> None:
    path, *overrides = recipe(name, *words)
    summary = train(load(path, overrides))
    assert summary["greedy_mismatches"] == 0
    assert summary["tokens_per_cycle_decoded"] == summary["tokens_per_cycle_walk_of_decoded"]


def command(*words: object) -> Callable[[], None]:
    return lambda: _exit_zero(main([str(word) for word in words]))


def _exit_zero(code: int) -> None:
    assert code == 0, code


def killed_and_resumed() -> None:
    """A run that dies in its third step and is started again."""
    real, calls = DrafterModule.training_step, 0

    def dying(self: DrafterModule, batch: object, index: int) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ConnectionAbortedError
        return real(self, batch, index)

    DrafterModule.training_step = dying  # type: ignore[method-assign,assignment]
    try:
        run("tiny")
    except ConnectionAbortedError:
        DrafterModule.training_step = real  # type: ignore[method-assign]
        run("tiny")
    assert calls == 3


@cache
def verifier() -> Verifier:
    return Verifier.load("tiny-llama", torch.float32, "cuda")


@cache
def drafter() -> BlockDiffusionDrafter:
    return BlockDiffusionDrafter.from_pretrained(FOLDER / "exported", device="cuda", dtype=torch.float32)


@cache
def written_on_the_cpu() -> list[list[int]]:
    return [one.token_ids for one in SpeculativeDecoder(Verifier.load("tiny-llama")).generate(PROMPTS, TOKENS)]


def decodes(rule: str | None, temperature: float, **settings: Any) -> Callable[[], None]:
    """A batch of two is decoded on the device; what is greedy and lossless as the CPU decodes it."""

    def scenario() -> None:
        weight = 0.5 if rule == "dynamic_ensemble" else None
        made = rule if rule == "dynamic_ensemble" else Decoding(rule=rule).make_rule()
        decoder = SpeculativeDecoder(verifier(), drafter(), made, verifier_weight=weight, **settings)
        found = [one.token_ids for one in decoder.generate(PROMPTS, TOKENS, temperature, batch_size=2)]
        if temperature == 0 and (rule is None or rule in LOSSLESS):
            assert found == written_on_the_cpu()

    return scenario


def waits_in_a_cycle() -> None:
    """A cycle makes the host wait once: for what was decided."""
    decoder = SpeculativeDecoder(verifier(), drafter())
    decoder.generate(PROMPTS[:1], 4)
    before = device.waits.total()
    (answer,) = decoder.generate(PROMPTS[:1], 24)
    found, cycles = device.waits.total() - before, len(answer.accepted)
    assert found <= cycles + 1, f"{found} waits in {cycles} cycles and a prefill: {device.waits}"


def causal() -> None:
    """Another model drafts: greedy and sampled as on the CPU, since a prompt's numbers are the same there."""
    found = []
    for where in ("cuda", "cpu"):
        small = CausalDrafter.load("tiny-qwen3", device=where)
        decoder = SpeculativeDecoder(verifier() if where == "cuda" else Verifier.load("tiny-llama"), small)
        before = device.waits.total()
        made = [decoder.generate(PROMPTS, TOKENS, temperature, batch_size=2) for temperature in (0.0, 0.8)]
        waits = device.waits.total() - before
        cycles = sum(max(len(one.accepted) for one in answers) for answers in made)
        assert waits <= cycles + 2 * len(PROMPTS), f"{waits} waits in {cycles} cycles and 4 prefills: {device.waits}"
        found.append([[one.token_ids for one in answers] for answers in made])
    assert found[0] == found[1]
    assert found[0][0] == written_on_the_cpu()


def distils() -> None:
    """A push-forward model is trained on the device, and writes there what it writes on the CPU."""
    for number in range(8):
        (FOLDER / f"text-{number}.txt").write_text(f"This is text {number}, with words in it. " * 3)
    words = [f"output={FOLDER}", "verifier.source=tiny-llama", "verifier.device=cuda", "text.validation_share=0.3"]
    words += [f"text.sources=[{{kind: files, path: '{FOLDER}/text-*.txt'}}]", "text.sequence_length=12"]
    words += ["stages=[{tokens_per_pass: 1}, {tokens_per_pass: 2}]", "training.rows=2", "trial.prompts=2"]
    words += ["trial.judge=null", "trial.prompt_tokens=4", "trial.new_tokens=4", "trial.batch_sizes=[2]"]
    distil(load_as(DistillationConfig, "k_forcing_quickstart", [*words, *(f"training.{one}" for one in SMALL)]))


def pushes() -> None:
    """Alone as on the CPU; beside the verifier as plain sampling with the same numbers."""
    source = str(FOLDER / "k_forcing_quickstart/export")
    models = [PushForwardModel.load(source, torch.float32, where) for where in ("cuda", "cpu")]
    here, there = (FreeDecoder(model).generate(PROMPTS, TOKENS, batch_size=2) for model in models)
    assert [one.token_ids for one in here] == [one.token_ids for one in there]
    ways = (SpeculativeDecoder(verifier(), model, "shared_noise") for model in (models[0], None))
    found, plain = (way.generate(PROMPTS, TOKENS, 1.0, batch_size=2) for way in ways)
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]


def no_plans_per_shape() -> None:
    """cuDNN's attention plans anew for each shape: on a real device that took more than half of the training time."""
    allowed: list[bool] = []
    real = functional.scaled_dot_product_attention

    def noting(*args: Any, **kwargs: Any) -> Any:
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return real(*args, **kwargs)

    functional.scaled_dot_product_attention = noting  # type: ignore[assignment]
    try:
        SpeculativeDecoder(verifier(), drafter()).generate(PROMPTS[:1], 4)
    finally:
        functional.scaled_dot_product_attention = real  # type: ignore[assignment]
    assert allowed
    assert not any(allowed)


SCENARIOS: dict[str, Callable[[], None]] = {
    "train, killed and resumed": killed_and_resumed,
    "train, another way": lambda: run("online", *ANOTHER_WAY),
    "export": command("export", FOLDER / "tiny/checkpoints/best.ckpt", FOLDER / "exported"),
    "check": command("check", FOLDER / "exported", *ON),
    "generate": command("generate", FOLDER / "exported", *ON, "--compare", "--max-new-tokens", 8, "hello"),
    "evaluate": command("evaluate", FOLDER / "exported", *ON, *ON_A_SUITE),
    "benchmark": command("benchmark", FOLDER / "exported", *ON, *ON_A_SUITE, "--prompts", 1, "--repeats", 1),
    **{f"{rule}, greedy": decodes(rule, 0.0) for rule in (*sorted(LOSSLESS), *RULES)},
    **{f"{rule}, sampled": decodes(rule, 0.8) for rule in (*sorted(LOSSLESS), *RULES, "dynamic_ensemble")},
    "tree": decodes(None, 0.0, tree_nodes=5),
    "waits in a cycle": waits_in_a_cycle,
    "causal": causal,
    "distil": distils,
    "push-forward": pushes,
    "no plans per shape": no_plans_per_shape,
}

if __name__ == "__main__":
    results = {}
    for name, scenario in SCENARIOS.items():
        began = time.process_time()
        try:
            scenario()
            results[name] = "ok"
        except (Exception, SystemExit) as error:  # noqa: BLE001 (the test shows all of them at once)
            traceback.print_exc()
            results[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {time.process_time() - began:.1f} s of the processor", file=sys.stderr)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1))
