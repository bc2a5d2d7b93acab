"""Recipes by name or path, and the files that stand beside them."""

import glob
from pathlib import Path
from typing import Any


def shipped() -> Path:
    """The folder of the recipes that ship: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def find_recipe(named: str | Path, what: str = "recipe", folder: str = "") -> Path:
    """The file of a recipe: a path, or a name of one that ships (`quickstart`, `ablations/losses`).

    Args:
        what: the word for it in the error.
        folder: where below the recipes that ship names are looked up.
    Raises:
        ValueError: there is neither such a file nor such a name.
    """
    path, home = Path(named), shipped() / folder
    if path.is_file():
        return path
    if not path.suffix and not path.is_absolute() and (home / f"{named}.yaml").is_file():
        return home / f"{named}.yaml"
    names = ", ".join(sorted(each.stem for each in home.glob("*.yaml")))
    raise ValueError(f"{what}={str(named)!r}: no such file; name a YAML file, or one that ships: {names}")


def place(named: str, folder: Path) -> str:
    """A relative path, or a pattern, that a recipe in `folder` names: beside it if it is there, else where one works.

    What lies below the working directory stays relative to it, so that a run can be moved with its data.
    """
    there = folder / named
    if Path(named).is_absolute():
        return named
    if not there.exists():
        there = Path(glob.escape(str(folder.absolute())), named)
        if not any(glob.iglob(str(there), recursive=True)):
            return named
    absolute, here = there.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def place_data(data: Any, folder: Path) -> None:
    """Put the paths that `data` of a recipe names, its answers and its source files, where they are."""
    sources = data.get("sources") if isinstance(data, dict) else None
    named = [(data, "answers"), *((each, "path") for each in (sources if isinstance(sources, list) else []))]
    for holder, key in named:
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = place(holder[key], folder)
