"""Recipes as files: read with overrides, checked key by key, written back."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from drafter.config.checks import check_keys, require
from drafter.config.recipe import SYSTEMS, Config
from drafter.config.run import RunConfig
from drafter.config.shipped import find_recipe, place_data

Schema = TypeVar("Schema", bound=RunConfig)
HINTS = {  # where to find what only the user can say
    "data.answers": ": where `drafter regenerate RECIPE` shall write the verifier's answers",
    "drafter.mask_token_id": "; `drafter doctor RECIPE drafter.mask_token_id=-1` names ids that text never uses",
}


def load(recipe: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe, by path or by the name of one that ships, and its overrides (`losses.first_error.weight=0`).

    Its `system` says what else it may hold.

    Raises:
        ValueError: one line that names the recipe, the key and the remedy.
    """
    return load_as(Config, recipe, overrides)


def load_as(schema: type[Schema], recipe: str | Path, overrides: Sequence[str] = ()) -> Schema:
    """`load`, for what takes only recipes of one schema, such as `AlignmentConfig`.

    Raises:
        ValueError: as `load`, or the recipe is of another system.
    """
    path = find_recipe(recipe)
    try:
        said = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(said, dict):
            raise ValueError(f"{path}: must hold `key: value` lines")
        place_data(said.get("data"), path.parent)
        place_data(said.get("text"), path.parent)
        wrong = [each for each in overrides if each.find("=") < 1]
        require(not wrong, "override", wrong[0] if wrong else "", "write it as key=value")
        layers = OmegaConf.merge(said, OmegaConf.from_dotlist(list(overrides)))
        plain: Any = OmegaConf.to_container(layers)
        system: Any = _system(plain)
        check_keys(plain, system(), "")
        config = OmegaConf.to_object(OmegaConf.merge(_schema(system), layers))
    except MissingMandatoryValue as error:
        hint = HINTS.get(str(error.full_key), "")
        raise ValueError(f"{path}: {error.full_key}: missing; set it in the recipe{hint}") from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key}={error.value!r}: {str(error.msg).splitlines()[0]}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path}: must hold `key: value` lines") from None  # a word or a number alone
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, schema):
        able = [name for name, each in SYSTEMS.items() if issubclass(each, schema)]
        raise ValueError(f"{path}: system={plain.get('system')!r}: not for this; it takes {' or '.join(able)}")
    return config


def save(config: RunConfig, path: Path) -> None:
    """Write the resolved config as a recipe."""
    path.write_text(as_yaml(config))


def as_yaml(config: RunConfig) -> str:
    """The resolved config as a recipe's text."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))


@cache
def _schema(system: Any) -> Any:
    """A system's schema as OmegaConf merges it, into a copy: to make one takes longer than all the rest of reading."""
    return OmegaConf.structured(system)


def _system(said: dict[str, Any]) -> type[RunConfig]:
    """The schema of a recipe's system."""
    name = said.get("system", RunConfig.system)
    require(name in SYSTEMS, "system", name, f"choose among {', '.join(SYSTEMS)}")
    return SYSTEMS[name]
