"""`data.sources` of a recipe: a list, each entry the settings of one source."""

from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from drafter.config.checks import check_keys, require
from drafter.sources import SOURCES, Source


def read_sources(said: list[Any]) -> list[Source]:
    """Make each entry what its `kind` says.

    Raises:
        ValueError: one line that names the entry, the key and the remedy.
    """
    return [one if isinstance(one, Source) else _source(f"data.sources[{at}]", one) for at, one in enumerate(said)]


def _source(name: str, said: Any) -> Source:
    well = isinstance(said, dict) and isinstance(said.get("kind"), str)
    require(well, name, said, "write it as {kind: file, path: prompts.jsonl}")
    require(said["kind"] in SOURCES, f"{name}.kind", said["kind"], f"choose among {', '.join(SOURCES)}")
    kind = SOURCES[said["kind"]]
    check_keys(said, kind, f"{name}.")
    try:
        made: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), said))
    except OmegaConfBaseException as error:
        reason = str(error.msg).splitlines()[0]
        raise ValueError(f"{name}.{error.full_key}={said.get(error.full_key)!r}: {reason}") from None
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None
    return made
