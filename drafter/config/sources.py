"""`data.sources` of a recipe: a list, each entry the settings of one source."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drafter.config.checks import check_keys, require
from drafter.sources import SOURCES


def read_sources(said: list[Any], kinds: Mapping[str, type] = SOURCES, key: str = "data.sources") -> list[Any]:
    """Make each entry what its `kind` says.

    Raises:
        ValueError: one line that names the entry, the key and the remedy.
    """
    made = tuple(kinds.values())
    return [one if isinstance(one, made) else _source(f"{key}[{at}]", one, kinds) for at, one in enumerate(said)]


def _source(name: str, said: Any, kinds: Mapping[str, type]) -> Any:
    well = isinstance(said, dict) and isinstance(said.get("kind"), str)
    require(well, name, said, "write it as {kind: file, path: prompts.jsonl}")
    require(said["kind"] in kinds, f"{name}.kind", said["kind"], f"choose among {', '.join(kinds)}")
    kind = kinds[said["kind"]]
    check_keys(said, kind, f"{name}.")
    try:
        made: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), said))
    except OmegaConfBaseException as error:
        reason = str(error.msg).splitlines()[0]
        raise ValueError(f"{name}.{error.full_key}={said.get(error.full_key)!r}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
    return made
