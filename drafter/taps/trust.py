"""Whether hidden states are what they are said to be: the verifier's own where it is here, else what must hold."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from drafter.data.rows import Row
from drafter.taps.elsewhere import TapsElsewhere
from drafter.verifier import Verifier, VerifierHead

ROWS = 3
TOLERANCE = 0.1  # of a state's norm: engines round otherwise, another layer is off by a multiple of this
SAME = 0.01  # of a state's norm: two layers that differ by less are one
AGREES = 0.8  # of greedy tokens, the share that the last states must give


def check_states(taps: TapsElsewhere, verifier: VerifierHead, rows: Sequence[Row], greedy: bool) -> None:
    """Look at the states of a few rows before a step is trained.

    The last states are normed or not as declared. Where the verifier's layers are here, each tap and the last states
    are compared with what they compute. Else: no two layers are one, none is the embedding, and the last states, under
    norm and head, give the row's tokens.

    Args:
        greedy: whether the rows' answers are the verifier's likeliest tokens.
    Raises:
        ValueError: something differs; one line that names the row's states and what to look at.
    """
    rows = rows[:ROWS]
    found = taps.states.of(rows)
    for row, states in zip(rows, found, strict=True):
        if taps.states.last != "none":
            _normed(taps, row, states[:, -1].float(), verifier)
        if isinstance(verifier, Verifier):
            _compare(taps, row, states, verifier)
        else:
            _distinct(taps, row, states, verifier)
    if greedy and not isinstance(verifier, Verifier) and taps.states.last != "none":
        hits = torch.cat([_hits(taps, row, states, verifier) for row, states in zip(rows, found, strict=True)])
        if not hits.float().mean() >= AGREES:
            raise _refused(
                taps,
                rows[0],
                f"under norm and head, the last states give {int(hits.sum())} of {len(hits)} tokens of greedy answers",
            )


def _compare(taps: TapsElsewhere, row: Row, states: Tensor, verifier: Verifier) -> None:
    """Compare a row's states with the verifier's own, layer by layer."""
    ids = torch.tensor([row.ids], device=verifier.device)
    every = list(range(verifier.num_layers - 1))
    true = verifier.states(ids, every)[0].float().cpu().unflatten(-1, (-1, taps.width))  # [S, layers, D]
    found = taps.taps(states).float().unflatten(-1, (-1, taps.width))
    for at, layer in enumerate([*taps.tap_layers, -1][: found.shape[1]]):
        off = (found[:, at, None] - true).norm(dim=(0, 2)) / true.norm(dim=(0, 2))  # [layers]
        if not off[layer] < TOLERANCE:
            best = int(off.argmin())
            like = f"; it is layer {best}'s" if off[best] < TOLERANCE else ""
            what = "the last states" if layer < 0 else f"layer {layer}"
            raise _refused(taps, row, f"{what} differs from the verifier's by {off[layer]:.2g} of its norm{like}")


def _distinct(taps: TapsElsewhere, row: Row, states: Tensor, verifier: VerifierHead) -> None:
    """No two layers are one, and none is the embedding."""
    layers = [*(f"layer {layer}" for layer in taps.states.layers), "the last states"][: states.shape[1]]
    embedded = verifier.embed(torch.tensor(row.ids, device=verifier.device)).float().cpu()  # [S, D]
    columns = [*states.float().unbind(1), embedded]
    names = [*layers, "the embedding (vLLM's layer 0)"]
    for one, other in combinations(range(len(columns)), 2):
        if (columns[one] - columns[other]).norm() < SAME * columns[other].norm():
            raise _refused(taps, row, f"{names[one]} is {names[other]}")


def _normed(taps: TapsElsewhere, row: Row, last: Tensor, verifier: VerifierHead) -> None:
    """The last states are behind the final norm, or before it, as declared.

    A norm without gain g and bias b gives vectors whose numbers have a mean square of 1; what it gives to a vector of
    ones of changing sign, and to its opposite, tells g and b.
    """
    norm = verifier.norm
    with torch.inference_mode():
        signs = torch.ones(last.shape[-1], device=verifier.device, dtype=verifier.dtype)
        signs[1::2] = -1
        plus, minus = norm(signs[None])[0].float().cpu(), norm(-signs[None])[0].float().cpu()
    gain, bias = (plus - minus) / (2 * signs.float().cpu()), (plus + minus) / 2
    used = gain.abs() > 1e-3 * gain.abs().max()
    size = ((last - bias) / gain)[:, used].square().mean(-1).sqrt()  # [S]
    behind = bool(((size - 1).abs() < TOLERANCE).all())
    declared = taps.states.last
    if behind and declared == "prenorm":
        raise _refused(taps, row, "the last states are behind the final norm, and not before it (prenorm)")
    if not behind and declared == "postnorm":
        raise _refused(taps, row, "the last states are before the final norm, and not behind it (postnorm)")


def _hits(taps: TapsElsewhere, row: Row, states: Tensor, verifier: VerifierHead) -> Tensor:
    """Whether the last state before each answer token gives it, bool [tokens]."""
    places = torch.tensor([at for start, end in row.spans for at in range(max(1, start), end)])
    best = verifier.logits(taps.last(states[places - 1]).to(verifier.device)).argmax(-1).cpu()
    return best == torch.tensor(row.ids)[places]


def _refused(taps: TapsElsewhere, row: Row, what: str) -> ValueError:
    return ValueError(
        f"hidden states: {taps.states.where(row)}: {what}; check layers, numbering and last, and whether it is this "
        "verifier's"
    )
