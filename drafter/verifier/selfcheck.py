"""A loaded verifier against the model's own attention and head: what differs is refused by name.

Two rows of a few tokens go through the model as transformers runs it, through our attention in one pass, and through
our cache: each row's beginning alone, then both together behind different lengths. Sliding windows are narrowed
meanwhile, so that they are felt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from drafter.attention import LayerShape
from drafter.verifier.attention import measured
from drafter.verifier.loading import FOREIGN
from drafter.verifier.recurrent import RECURRENT

if TYPE_CHECKING:
    from drafter.verifier.body import Verifier
    from drafter.verifier.tiled import TiledPass

LENGTH, NEW, BEGINNINGS, KEPT, WINDOW = 12, 4, (5, 8), (1, 3), 4
# Relative errors, and the share of positions that must keep to them: a router may find two experts equal, and rounding
# then decides which one a position gets.
EXACT, ROUNDED = (1e-3, 0.85), (0.15, 0.5)
NEAR = 0.1  # how far from the model's own a layer in tiles may be
STATELESS = {"mlp", "moe", "dummy"}  # layers without attention
REWINDABLE = {"full_attention", "sliding_attention", *STATELESS}


class Differs(ValueError):
    """What our pass computes is not what the model computes."""


@torch.inference_mode()
def why_not_decoded(verifier: "Verifier") -> str | None:
    """Why `verifier` can't be decoded here, or None where it can.

    Raises:
        ValueError: its taps can't be read, or its logits are not the head's.
    """
    name = type(verifier.model).__name__
    layers = sorted({0, max(0, verifier.num_layers - 2)})
    ids = _ids(verifier)
    with narrowed(verifier.model):
        try:
            with verifier.plain_attention() as model:
                taps, logits = _own(verifier, model, ids, layers)
        except FOREIGN as error:
            raise ValueError(f"verifier: {name} does not run on token ids alone ({_first_line(error)})") from error
        if taps.shape != (*ids.shape, len(layers) * verifier.config.hidden_size):
            raise ValueError(f"verifier: the layers of {name} do not put out hidden states alone; choose another")
        try:
            with measured() as shapes:
                _compare_pass(verifier, ids, layers, taps, logits)
            verifier.shapes = _shapes(verifier, shapes)
            _compare_steps(verifier, ids, layers, taps, logits)
        except FOREIGN as error:
            reason = _explained(verifier, error)
        else:
            reason = _explained(verifier, None)
        if reason is None:
            return None
        verifier.give_back_attention()
        try:
            _compare_pass(verifier, ids, layers, taps, logits)
            shorter = verifier.taps(ids[:, :-NEW], layers)
            _same(shorter, taps[:, :-NEW], "taps change with the tokens behind them")
        except FOREIGN as error:
            raise ValueError(f"verifier: {name}: {_first_line(error)}; choose another") from error
    return f"{name}: {reason}"


@torch.inference_mode()
def why_tiles_differ(verifier: "Verifier", tiled: "TiledPass") -> str | None:
    """Which layer in tiles does not do what the model's own does with the same input, or None.

    The error is taken relative to what the layer adds to its input, and to the sixteenth of its output that rounding
    may cost: bfloat16 keeps 8 bits.
    """
    ids, layers = _ids(verifier), range(verifier.num_layers)
    with narrowed(verifier.model):
        _, taps = verifier.step(ids, verifier.new_cache(len(ids), LENGTH), layers)
        assert taps is not None
        cache = verifier.new_cache(len(ids), LENGTH)
        hidden, rope = tiled.begin(ids, cache)
        for index, own in enumerate(taps.chunk(len(layers), dim=-1)):  # [2, S, D]
            found, added = tiled.layers[index](hidden, rope, cache).float() - own.float(), own.float() - hidden.float()
            off = found.norm(dim=-1) / (added.norm(dim=-1) + own.float().norm(dim=-1) / 16).clamp(min=1e-12)
            if not off.max() <= NEAR:
                return f"layer {index} in tiles is not the model's own (off by {float(off.max()):.2g})"
            hidden = own
    return None


def _ids(verifier: "Verifier") -> Tensor:
    """Two rows of tokens to try, [2, S]."""
    steps = torch.arange(2 * LENGTH).view(2, LENGTH)
    return ((1 + 7919 * steps) % len(verifier.head)).to(verifier.device)


def _own(verifier: "Verifier", model: Any, ids: Tensor, layers: list[int]) -> tuple[Tensor, Tensor]:
    """Taps and logits of the model's own pass."""
    out, taps = verifier.heard(layers, model, input_ids=ids, use_cache=False)
    return taps, out.logits


def _compare_pass(verifier: "Verifier", ids: Tensor, layers: list[int], taps: Tensor, logits: Tensor) -> None:
    """Whole rows in one pass, and a pass that stops at the first layer."""
    states = verifier.states(ids, layers)
    width = taps.shape[-1]
    _same(states[..., :width], taps, "taps differ from its own attention's")
    _same(verifier.logits(states[..., width:]), logits, "logits differ from its own")
    first = verifier.taps(ids, layers[:1])
    _same(first, taps[..., : first.shape[-1]], "taps of a pass that stops early differ")


def _compare_steps(verifier: "Verifier", ids: Tensor, layers: list[int], taps: Tensor, logits: Tensor) -> None:
    """Beginnings of rows, each alone, and what follows, together."""
    cache = verifier.new_cache(len(ids), LENGTH)
    for row, length in enumerate(BEGINNINGS):
        part = slice(row, row + 1)
        hidden, got = verifier.step(ids[part, :length], cache.row(row), layers)
        _same(got, taps[part, :length], "taps over a cache differ from its own attention's")
        _same(verifier.logits(hidden), logits[part, :length], "logits over a cache differ from its own")
    cache.set_lengths(list(BEGINNINGS))
    places = torch.tensor(BEGINNINGS, device=ids.device)[:, None] + torch.arange(NEW, device=ids.device)  # [2, N]
    rows = torch.arange(len(ids), device=ids.device)[:, None]
    hidden, got = verifier.step(ids[rows, places], cache, layers)
    _same(got, taps[rows, places], "taps behind a cached beginning differ from its own attention's")
    _same(verifier.logits(hidden), logits[rows, places], "logits behind a cached beginning differ from its own")
    if verifier.recurrent:
        kept = torch.tensor([[length + count] for length, count in zip(BEGINNINGS, KEPT, strict=True)])  # [2, 1]
        cache.set_lengths(kept[:, 0].tolist())
        kept = kept.to(ids.device)
        hidden, got = verifier.step(ids[rows, kept], cache, layers)
        _same(got, taps[rows, kept], "taps behind replayed tokens differ from its own attention's")
        _same(verifier.logits(hidden), logits[rows, kept], "logits behind replayed tokens differ from its own")


def _shapes(verifier: "Verifier", found: dict[int, LayerShape]) -> tuple[LayerShape, ...]:
    """What each layer keeps of a token: nothing, in layers without attention."""
    kinds = list(getattr(verifier.config, "layer_types", None) or ())
    idle = {"linear_attention", "conv", *STATELESS}
    without = (
        {layer for layer, kind in enumerate(kinds) if kind in idle} if len(kinds) == verifier.num_layers else set()
    )
    expected = set(range(max(verifier.num_layers, len(found) + len(without)))) - without
    if expected != set(found):
        raise Differs("its attention does not go through transformers' attention interface in every layer")
    return tuple(found.get(layer, LayerShape(0, 0, 0)) for layer in range(len(expected | without)))


def _same(got: Tensor | None, own: Tensor, what: str) -> None:
    assert got is not None
    off = (got.double() - own.double()).norm(dim=-1) / own.double().norm(dim=-1).clamp(min=1e-12)
    bound, share = ROUNDED if own.dtype in (torch.float16, torch.bfloat16) else EXACT
    found = off.flatten().quantile(share)
    if not found <= bound:
        raise Differs(f"{what} (by {float(found):.2g})")


def _explained(verifier: "Verifier", error: BaseException | None) -> str | None:
    """Why it can't be decoded: by its kinds of layers, which few tokens may not show, or by what went wrong."""
    kinds = set(getattr(verifier.config, "layer_types", None) or ()) - REWINDABLE - RECURRENT
    if kinds:
        return f"layers of type {', '.join(sorted(kinds))} can't be rewound as full and sliding attention can"
    return None if error is None else _first_line(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + (text[0] if text else "")


@contextmanager
def narrowed(model: Any) -> Iterator[None]:
    """Inside, sliding windows and chunks are `WINDOW` tokens wide."""
    owners = [model.config, model.config.get_text_config(), *model.modules()]
    owners += [module.config for module in model.modules() if hasattr(module, "config")]
    changed = []
    for owner in {id(one): one for one in owners}.values():
        for name in ("sliding_window", "attention_chunk_size"):
            width = vars(owner).get(name)
            if isinstance(width, int) and not isinstance(width, bool) and width > WINDOW:
                changed.append((vars(owner), name, width))
                vars(owner)[name] = WINDOW
    try:
        yield
    finally:
        for fields, name, width in changed:
            fields[name] = width
