"""Several processes train on text as one does: the same rows with the same noise, the same weights."""

import multiprocessing
import os
import socket

import pytest
import torch
from safetensors.torch import load_file
from test_text_runs import distillation, recipe, texts  # noqa: F401 (a fixture)

from drafter import config as configs
from drafter.config import RunConfig
from drafter.training.runs import run
from drafter.verifier.conversion import resolve

WORLD = 2
SAID = "max_steps: 3, log_every: 1, validate_every: 2, learning_rate: 1.0e-3, precision: float32, "
SAID += "epsilon: 1.0e-4"  # without it Adam makes whole steps of gradients that are rounding alone
MODEL = "{model_type: qwen3, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
MODEL += "num_key_value_heads: 1, head_dim: 8}"


def runs(folder, texts, training):  # noqa: F811
    """A language model, then a student of another model in two stages."""
    said = {"system": "language_model", "model": MODEL, "tokenizer": "{size: 300}", "training": training}
    run(configs.load_as(RunConfig, recipe(folder, texts, "model", **said)))
    student = {"training": training, "student": "{average: 0.5, temperatures: [0.5, 1.0]}"}
    stages = "[{tokens_per_pass: 1}, {tokens_per_pass: 2}]"
    run(distillation(folder, texts, "student", stages=stages, **student))


def one_rank(rank, port, *arguments):
    place = {"LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": 0}
    os.environ.update({name: str(value) for name, value in place.items()} | {"GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    runs(*arguments)
    os._exit(0)  # as in test_ranks


@pytest.mark.slow
def test_two_ranks_train_on_text_as_one_does(tmp_path, texts):  # noqa: F811
    resolve("tiny-llama")  # here: where processes are joined already, transformers saves on the first alone
    for name in ("alone", "micro", "ranks"):
        (tmp_path / name).mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = f"{{rows: 1, devices: '{WORLD}', strategy: ddp, {SAID}}}"
    context = multiprocessing.get_context("fork")
    arguments = (port, tmp_path / "ranks", texts, shared)
    processes = [context.Process(target=one_rank, args=(rank, *arguments)) for rank in range(WORLD)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    runs(tmp_path / "alone", texts, f"{{rows: 2, {SAID}}}")
    runs(tmp_path / "micro", texts, f"{{rows: 1, accumulate: 2, {SAID}}}")
    for name in ("model", "student"):
        alone, *others = (
            load_file(tmp_path / way / name / "export/model.safetensors") for way in ("alone", "ranks", "micro")
        )
        for other in others:
            assert other.keys() == alone.keys()
            for key, weight in alone.items():
                torch.testing.assert_close(other[key], weight, rtol=1e-5, atol=1e-5)
