"""The architecture, as far as a machine can check it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from drafter.config import load

SOURCES = sorted([*ROOT.glob("drafter/**/*.py"), *ROOT.glob("losses/*.py"), ROOT / "train.py"])
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def test_import_contracts_hold():
    """A layer imports only the layers below it."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_recipes_load_and_open_with_their_command(recipe):
    assert load(recipe).name
    assert re.match(r"# (make |python )", recipe.read_text())


def test_lightning_is_imported_where_modules_train():
    found = {path for path in SOURCES if re.search(r"^\s*(import|from) lightning", path.read_text(), re.MULTILINE)}
    assert {name(path).split("/")[1] for path in found} <= {"training", "ablation"}
