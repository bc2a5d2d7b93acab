"""The architecture, as far as a machine can check it."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT
from pages import commands

import drafter
from drafter.__main__ import make_parser
from drafter.commands import COMMANDS
from drafter.config import RunConfig, load_as, shipped

PACKAGES = sorted([*ROOT.glob("drafter/**/*.py"), *ROOT.glob("losses/*.py")])
SOURCES = [*PACKAGES, ROOT / "train.py"]
RECIPES = sorted(ROOT.glob("recipes/*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LAYERS = next(one["layers"] for one in PROJECT["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
README = (ROOT / "README.md").read_text()


def name(path):
    return path.relative_to(ROOT).as_posix()


def floors():
    """Room → its floor, bottom first, as the import contract has them."""
    levels = [[room.strip() for room in layer.split("|")] for layer in reversed(LAYERS)]
    return {room.removeprefix("drafter."): level for level, rooms in enumerate(levels) for room in rooms}


def climbs(rooms):
    """The neighbours in a list of rooms of which the second stands on a lower floor than the first."""
    levels = floors()
    return [(one, two) for one, two in pairwise(rooms) if levels[one] > levels[two]]


def test_import_contracts_hold():
    """A layer imports only the layers below it."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_contract_names_every_room():
    there = {path.stem for path in ROOT.glob("drafter/*.py")} | {
        path.parent.name for path in ROOT.glob("drafter/*/*.py")
    }
    assert set(floors()) == (there - {"__init__"}) | {"losses"}


def test_the_table_of_the_readme_is_the_contract():
    """Every room, from the ground floor up."""
    rooms = re.findall(r"^\| `(?:drafter/)?(\w+)(?:/|\.py)` \|", README.split("| where |")[1], re.MULTILINE)
    rooms = [room for room in rooms if room in floors()]
    assert sorted(rooms) == sorted(set(floors()) - {"__main__"})
    assert climbs(rooms) == []


def test_the_flow_names_rooms():
    """Under each stage in the README, the rooms where it lives; in the package's docstring, the floors."""
    (flow,) = re.findall(r"## The way of the data\n+```\n(.*?)```", README, re.DOTALL)
    stages = " ".join(flow.splitlines()[1::3])
    assert len(re.findall(r"\w+", stages)) > 10
    assert set(re.findall(r"\w+", stages)) <= set(floors())
    (listed,) = re.findall(r"to its left:\n(.*?)\.\n", drafter.__doc__, re.DOTALL)
    rooms = re.findall(r"\w+", listed)
    assert climbs(rooms) == []
    assert set(rooms) == set(floors()) - {"__main__"}


def test_a_newcomer_sees_few_things():
    assert len([path for path in (ROOT / "drafter").iterdir() if path.name != "__pycache__"]) <= 25


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) <= 300


def test_files_are_neither_scraps_nor_rolls():
    lengths = {name(path): len(path.read_text().splitlines()) for path in PACKAGES if path.name != "__init__.py"}
    assert 60 <= statistics.median(lengths.values()) <= 160
    assert len([path for path, lines in lengths.items() if lines < 25]) <= 10


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_recipes_load_and_open_with_their_command(recipe):
    assert load_as(RunConfig, recipe).name
    assert re.match(r"# (make |drafter )", recipe.read_text())


@pytest.mark.parametrize("recipe", sorted(ROOT.glob("recipes/**/*.yaml")), ids=name)
def test_commands_in_the_heads_of_recipes_are_commands(recipe):
    head = re.match(r"(?:#.*\n)+", recipe.read_text())[0]
    ours = rf"(drafter (?:{'|'.join(COMMANDS)}) .*?)(?:$|#|  )"
    said = [words for line in re.findall(ours, head, re.MULTILINE) for words in commands(line)]
    assert said or "make " in head
    for words in said:
        parsed = make_parser().parse_args(words[1:])
        if parsed.command == "evaluate":
            assert recipe.stem in [one.partition("=")[0] for one in parsed.suites]
            continue
        shipped.find_recipe(
            parsed.ablation if parsed.command == "ablate" else parsed.recipe,
            "recipe",
            "ablations" if parsed.command == "ablate" else "",
        )


def test_lightning_is_imported_where_modules_train():
    found = {path for path in SOURCES if re.search(r"^\s*(import|from) lightning", path.read_text(), re.MULTILINE)}
    assert {name(path).split("/")[1] for path in found} <= {"training", "ablation"}


def test_every_command_has_its_file():
    """A file of `commands/` that can be run is a command, and each says what it is for in its first line."""
    files = [path for path in ROOT.glob("drafter/commands/*.py") if "\ndef run(" in path.read_text()]
    assert sorted(COMMANDS) == sorted(path.stem for path in files)
    for command in COMMANDS:
        assert (import_module(f"drafter.commands.{command}").__doc__ or "").splitlines()[0].endswith(".")


OPTIONAL = {"flash_attn"}  # asked for before it is imported


def test_what_is_imported_is_declared():
    """Every package that the sources import is a dependency of the project by name, not by another's grace."""
    imported = set()
    for path in PACKAGES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {each.name.split(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    homes = metadata.packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"drafter", "losses"} - OPTIONAL
    declared = {re.split(r"[<>=; ]", one)[0].lower().replace("_", "-") for one in PROJECT["project"]["dependencies"]}
    needed = {one: {home.lower().replace("_", "-") for home in homes[one]} for one in foreign}
    assert [one for one, distributions in sorted(needed.items()) if not distributions & declared] == []
