"""Rotary embeddings that a drafter may have: which scalings are computed, what each needs, how others spell them.

Angles and the attention factor are transformers' own (`modeling_rope_utils.ROPE_INIT_FUNCTIONS`).
"""

import sys
from collections.abc import Callable, Mapping
from typing import Any

SIZED = "original_max_position_embeddings"
MULTIMODAL = ("mrope_section", "mrope_interleaved")  # text has one position, which all sections share


def number(value: Any) -> bool:
    """Whether a field holds a number > 0 that a float can be."""
    return type(value) in (int, float) and 0 < value <= sys.float_info.max


def _flag(value: Any) -> bool:
    return type(value) is bool


def _open(value: Any) -> bool:
    return value is None or number(value)


NEEDED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "default": {},
    "linear": {"factor": number},
    "llama3": dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", SIZED), number),
    "yarn": {"factor": number, SIZED: number},
}
"""Scaling → its fields and the test of each. Scalings that follow the longest row of a batch are not among them."""
YARNS_OWN: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"), _open),
    "truncate": _flag,
}


def flaws(rope: Mapping[str, Any]) -> list[str]:
    """What keeps a drafter from rotating so: one line for each field, without the place where it stands."""
    kind = rope.get("rope_type")
    if not isinstance(kind, str) or kind not in NEEDED:
        return [f"rope_type={kind!r}: must be one of {', '.join(NEEDED)}: others follow the longest row of a batch"]
    needed = NEEDED[kind]
    known = {**needed, **(YARNS_OWN if kind == "yarn" else {})}
    found = [f"{name} is missing: write that of training, {kind} needs it" for name in needed if name not in rope]
    for name in sorted(rope.keys() - {"rope_type", "rope_theta"}):
        if name not in known:
            found.append(f"{name}={rope[name]!r}: the drafter rotates every dimension, as {kind} says; remove it")
        elif not known[name](rope[name]):
            found.append(f"{name}={rope[name]!r}: no such {kind} scaling; take it from the drafter's training")
    return found


def read_rope(backbone: Mapping[str, Any], nested: Mapping[str, Any], base: Any) -> dict[str, Any]:
    """`rope_parameters` of a foreign `config.json`: theirs, `rope_scaling` of old, or what `dflash_config` holds.

    Args:
        backbone: where the fields of the decoder stand.
        nested: `dflash_config`.
        base: `rope_theta` where the parameters name none.
    Raises:
        ValueError: layers rotate differently, or a part of each head alone.
    """
    places = (backbone.get("rope_parameters"), nested.get("rope_parameters"), backbone.get("rope_scaling"))
    found: Any = next((one for one in places if one is not None), {})
    if not isinstance(found, Mapping):
        raise ValueError(f"config.json: rope_parameters={found!r}: must be an object")
    kinds = [one for one in found.values() if isinstance(one, Mapping)]
    if kinds:
        if any(one != kinds[0] for one in kinds):
            raise ValueError("config.json: rope_parameters: layers of two rotary embeddings; choose another drafter")
        found = kinds[0]
    rope: dict[str, Any] = {"rope_theta": base, **{key: found[key] for key in found if key not in MULTIMODAL}}
    kind = rope.pop("type", None)
    rope["rope_type"] = str(rope.get("rope_type") or kind or "default")
    if rope["rope_type"] == "mrope":
        rope["rope_type"] = "default"
    for share in (rope.pop("partial_rotary_factor", None), backbone.get("partial_rotary_factor")):
        if share not in (None, 1):
            raise ValueError(
                f"config.json: partial_rotary_factor={share}: this drafter rotates a part of each head, which no "
                "drafter here does; choose another"
            )
    if SIZED in NEEDED.get(rope["rope_type"], ()):
        longest = backbone.get(SIZED) or rope.get(SIZED) or backbone.get("max_position_embeddings")
        rope |= {} if longest is None else {SIZED: longest}  # as transformers fills it in
    return rope


def rope_of(config: Any) -> dict[str, Any]:
    """Rotary parameters for a new drafter of a verifier, by its text config: the verifier's own, as far as they go.

    Of a rotation that a drafter has not (`lost_of`) the base remains.
    """
    parameters = _global(config)
    base = {"rope_type": "default", "rope_theta": float(parameters.get("rope_theta") or 10000.0)}
    kind = parameters.get("rope_type", "default")
    if kind not in NEEDED or lost_of(config):
        return base
    known = {*NEEDED[kind], *(YARNS_OWN if kind == "yarn" else ())}
    return base | {"rope_type": kind} | {name: parameters[name] for name in sorted(known & parameters.keys())}


def lost_of(config: Any) -> str | None:
    """What of a verifier's rotation a drafter can't have, or None."""
    parameters = _global(config)
    share, kind = parameters.get("partial_rotary_factor"), parameters.get("rope_type", "default")
    if share not in (None, 1):
        return f"partial_rotary_factor={share}"
    if kind == "dynamic":  # scales nothing within the verifier's context
        return None
    known = {*NEEDED.get(kind, ()), *(YARNS_OWN if kind == "yarn" else ())}
    kept = {name: value for name, value in parameters.items() if name in known}
    return next(iter(flaws(kept | {"rope_type": kind})), None)


def _global(config: Any) -> dict[str, Any]:
    """A config's rotary parameters; where each kind of layer has its own (Gemma 3), those of global attention."""
    parameters = getattr(config, "rope_parameters", None) or {}
    return dict(parameters if "rope_theta" in parameters else parameters.get("full_attention") or parameters)
