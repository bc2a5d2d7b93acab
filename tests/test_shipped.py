"""Recipes ship inside the package, and what a recipe names lies beside it, wherever the command is given."""

import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from drafter.__main__ import main
from drafter.config import load
from drafter.config import shipped as module
from drafter.config.shipped import find_recipe, place
from drafter.sources import BadRows
from drafter.sources.files import File


def test_the_wheel_holds_packages_recipes_and_the_console_script():
    """As the build is told; `find_recipe` looks where it puts them."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = said["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["drafter", "losses"]
    assert wheel["force-include"] == {"recipes": "drafter/recipes"}
    name, _, function = said["project"]["scripts"]["drafter"].partition(":")
    assert (name, getattr(__import__(name, fromlist=[function]), function)) == ("drafter.__main__", main)


def test_an_installed_package_finds_its_own_recipes(tmp_path, monkeypatch):
    inside = tmp_path / "site-packages/drafter/recipes/ablations"
    inside.mkdir(parents=True)
    for path in (inside.parent / "mine.yaml", inside / "arms.yaml"):
        path.write_text("name: mine\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "site-packages/drafter/config/shipped.py"))
    assert find_recipe("mine") == inside.parent / "mine.yaml"
    assert find_recipe("arms", "ablation", "ablations") == inside / "arms.yaml"
    with pytest.raises(ValueError, match="recipe='other': no such file; name a YAML file, or one that ships: mine"):
        find_recipe("other")


def test_files_that_a_recipe_names_lie_beside_it(tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    (home / "answers.parquet").touch()
    recipe = home / "mine.yaml"
    recipe.write_text((ROOT / "recipes/tiny.yaml").read_text())
    words = "data.answers=answers.parquet"
    recipe.write_text(recipe.read_text().replace("runs/tiny-answers.parquet", "answers.parquet"))
    assert "answers.parquet" in recipe.read_text()
    for place_of_command, wanted in ((elsewhere, home / "answers.parquet"), (home, Path("answers.parquet"))):
        monkeypatch.chdir(place_of_command)
        assert Path(load(recipe).data.answers) == wanted
    assert load(recipe, [words]).data.answers == "answers.parquet"  # a word of the command is of its own folder
    assert place("/absolute.parquet", home) == "/absolute.parquet"
    assert place("not-there.parquet", home) == "not-there.parquet"


def test_patterns_that_a_recipe_names_are_of_files_beside_it(tmp_path, monkeypatch):
    """The brackets of its folder's name are no pattern."""
    home, elsewhere = tmp_path / "home [1]", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    (home / "prompts.jsonl").write_text('{"prompt": "Why?"}\n')
    for named in ("prompts.jsonl", "p*.jsonl"):
        for place_of_command in (elsewhere, home):
            monkeypatch.chdir(place_of_command)
            found = File(path=place(named, Path("../home [1]")))
            (one,) = found.conversations(0, BadRows())
            assert one["messages"] == [{"role": "user", "content": "Why?"}]
    assert place("q*.jsonl", home) == "q*.jsonl"
