"""The one-line errors of wrong settings."""

import difflib
from dataclasses import fields, is_dataclass
from typing import Any


def require(ok: bool, name: str, value: object, remedy: str) -> None:
    """Raise the one-line ValueError of a wrong setting unless `ok`."""
    if not ok:
        raise ValueError(f"{name}={value!r}: {remedy}")


def check_keys(said: Any, schema: Any, prefix: str) -> None:
    """Refuse a key that the schema, a dataclass or an instance of one, lacks; names the nearest one that it has."""
    known = [each.name for each in fields(schema)]
    for key, value in said.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise ValueError(f"{prefix}{key}: unknown key; {hint}")
        inner = getattr(schema, key)
        if is_dataclass(inner):
            remedy = f"holds keys of its own; write {prefix}{key}.{fields(inner)[0].name}=..."
            require(isinstance(value, dict), f"{prefix}{key}", value, remedy)
            check_keys(value, inner, f"{prefix}{key}.")


def flat(recipe: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A recipe's settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
