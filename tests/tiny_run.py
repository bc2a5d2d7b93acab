"""A run of the tiny recipe, of four steps: what a checkpoint, an export and a summary look like."""

from pathlib import Path

from conftest import make_answers, make_verifier

from drafter import answers
from drafter import config as configs
from drafter.training.runs.alignment import train

FAMILY = "llama"
SOURCE = f"tiny-{FAMILY}"
RECIPE = Path(__file__).parent.parent / "recipes/tiny.yaml"


def write_answers(folder, times=3):
    """Answers of the tiny verifier, each so many times under other questions, in `folder`; returns their file."""
    verifier = make_verifier(FAMILY)
    rows = [
        {
            "source": f"document {index}",
            "kind": "test",
            "prompt": f"Question {index}?",
            "answer_ids": answer,
            "stop": "length",
        }
        for index, answer in enumerate(make_answers(FAMILY) * times)
    ]
    answers.write(folder / "answers.parquet", rows, {"verifier": verifier.fingerprint(), "rows": len(rows)})
    return folder / "answers.parquet"


def make_run(folder):
    """Train in `folder`; returns the run's directory."""
    words = {
        "name": "tiny",
        "output": folder,
        "data.answers": write_answers(folder),
        "data.validation_rows": 4,
        "data.test_rows": 4,
        "training.max_steps": 4,
        "training.validate_every": 2,
        "decoding.prompts": 1,
        "decoding.max_new_tokens": 8,
    }
    train(configs.load(RECIPE, [f"{key}={value}" for key, value in words.items()]))
    return folder / "tiny"
