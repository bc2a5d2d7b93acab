"""What a run holds when its first step begins: how many verifiers, and whose taps."""

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from drafter.config import load
from drafter.training.runs import alignment
from drafter.verifier import Verifier

TRAINED_ON, HELD_OUT = {"training rows"}, {"validation rows", "test rows"}


class FirstStep(Exception):
    """Instead of training."""


@pytest.fixture
def held(tiny_words, tmp_path, monkeypatch):
    """A function: overrides → dtypes of the verifiers loaded, the rows whose taps were made, the module."""

    def begin(*overrides):
        dtypes, taps, modules = [], [], []
        whole, made_of = Verifier.load, alignment.taps_of

        def loading(*words, **named):
            found = whole(*words, **named)
            dtypes.append(str(found.dtype).removeprefix("torch."))
            return found

        def making(rows, verifier, drafter, what, *words, **named):
            taps.append(what)
            return made_of(rows, verifier, drafter, what, *words, **named)

        def fitting(module, batches, *_, **__):
            modules.append((module, batches))
            raise FirstStep

        monkeypatch.setattr(Verifier, "load", loading)
        monkeypatch.setattr(alignment, "taps_of", making)
        monkeypatch.setattr(alignment, "fit", fitting)
        recipe, *words = tiny_words(tmp_path, *overrides)
        with pytest.raises(FirstStep):
            alignment.train(load(recipe, words))
        return dtypes, set(taps), modules[0][0]

    return begin


@pytest.mark.parametrize(
    ("exact", "fast", "expected"),
    [
        ("float32", "float32", ["float32"]),
        ("float32", "bfloat16", ["float32", "bfloat16"]),
        ("bfloat16", "bfloat16", ["bfloat16"]),
    ],
)
def test_one_verifier_serves_where_it_can(held, exact, fast, expected):
    dtypes, _, module = held(f"verifier.dtype={exact}", f"training.precision={fast}", "data.taps=online")
    assert dtypes == expected
    assert str(module.verifier.dtype) == f"torch.{exact}"


@pytest.mark.parametrize(("rank", "expected"), [(0, TRAINED_ON | HELD_OUT), (1, TRAINED_ON)])
def test_the_first_rank_alone_has_taps_of_held_out_rows(held, monkeypatch, rank, expected):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    assert held()[1] == expected
