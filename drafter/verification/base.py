"""What the rules share: their result, the acceptance and the residual of speculative sampling, and sampling.

Numbers gathered at drafted tokens, and every law that a token is drawn from, are float64; sums over the vocabulary go
one slot at a time, so that no float64 copy of [B, G, V] exists. Random numbers are uniforms from the caller's
generator, [B, n] in one call: a rule draws the same count whatever it is given.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from drafter.verification.streams import Streams


@dataclass(frozen=True)
class Verification:
    """What one cycle emits for each row: `draft_ids[b, :accepted[b]]`, then `next_token[b]`.

    Args:
        accepted: drafted tokens that are kept, 0..G, [B] long.
        next_token: the correction after a rejection, or the bonus token, [B] long.
    """

    accepted: Tensor
    next_token: Tensor


Rule = Callable[..., Verification]

NOTHING = -1  # in place of a token: what a law gives that holds no numbers (NaN)


def draft_lengths(
    rule: str, draft_ids: Tensor, draft_probs: Tensor | None, verifier_probs: Tensor, draft_length: Tensor | None
) -> Tensor:
    """Check the shapes given to a rule and return the number of slots that each row drafted, [B].

    Raises:
        ValueError: the shapes do not belong together.
    """
    if draft_ids.ndim != 2:
        raise ValueError(f"{rule}: draft_ids has shape {list(draft_ids.shape)}: must be [B, G]")
    batch, slots = draft_ids.shape
    if verifier_probs.ndim != 3 or verifier_probs.shape[:2] != (batch, slots + 1):
        raise ValueError(
            f"{rule}: verifier_probs has shape {list(verifier_probs.shape)}: must be [B, G + 1, V], "
            f"here [{batch}, {slots + 1}, V] (one law per drafted slot and one for the bonus token)"
        )
    if draft_probs is not None and draft_probs.shape != (batch, slots, verifier_probs.shape[-1]):
        raise ValueError(
            f"{rule}: draft_probs has shape {list(draft_probs.shape)}: must be [B, G, V], "
            f"here {[batch, slots, verifier_probs.shape[-1]]}"
        )
    if draft_length is None:
        return torch.full((batch,), slots, device=draft_ids.device)  # [B]
    if draft_length.shape != (batch,):
        raise ValueError(f"{rule}: draft_length has shape {list(draft_length.shape)}: must be [B], here [{batch}]")
    return draft_length


def drafted(draft_ids: Tensor, draft_length: Tensor) -> Tensor:
    """Which slots hold a drafted token, [B, G] bool."""
    return torch.arange(draft_ids.shape[1], device=draft_ids.device) < draft_length[:, None]  # [B, G]


def count_leading(keep: Tensor) -> Tensor:
    """Number of True before the first False of each row: [B, G] bool -> [B] long."""
    return keep.long().cumprod(-1).sum(-1)  # [B]


def uniforms(shape: tuple[int, ...], generator: torch.Generator | Streams, device: torch.device) -> Tensor:
    """Float64 numbers in [0, 1), drawn where the generator lives, then moved: one stream for all devices."""
    if isinstance(generator, Streams):
        return generator.uniforms(shape)
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64).to(device)


def inverse_cdf(probs: Tensor, noise: Tensor) -> Tensor:
    """The token whose interval of the cumulated law, in order of ids, holds the noise.

    min{v : F(v) > noise}, F in float64 and scaled to end at 1; never a token without mass.

    Args:
        probs: laws, [..., V]; need not sum to exactly 1.
        noise: numbers in [0, 1), [...].
    Returns:
        ids, [...] long, `NOTHING` of a law with a NaN; uniform noise gives samples of `probs`.
    """
    cumulated = probs.cumsum(-1, dtype=torch.float64)  # [..., V]
    total = cumulated[..., -1:]  # [..., 1]
    ids = torch.searchsorted(cumulated, noise.double()[..., None] * total, right=True)  # [..., 1]
    last = torch.searchsorted(cumulated, total.contiguous())  # [..., 1] the last id with mass
    return torch.minimum(ids, last).masked_fill(total.isnan(), NOTHING).squeeze(-1)  # [...]


def sample(probs: Tensor, generator: torch.Generator | Streams) -> Tensor:
    """One token from each law: [..., V] -> [...] long."""
    return inverse_cdf(probs, uniforms(tuple(probs.shape[:-1]), generator, probs.device))


def prob_at(probs: Tensor, ids: Tensor) -> Tensor:
    """Probability of ids[b, i] under probs[b, i]: [B, >= G, V] and [B, G] -> [B, G] float64."""
    return probs[:, : ids.shape[1]].gather(-1, ids[..., None]).squeeze(-1).double()  # [B, G]


def law_at(probs: Tensor, slot: Tensor) -> Tensor:
    """The law probs[b, slot[b]], zero past the last slot: [B, N, V] and [B] -> [B, V] float64."""
    batch, slots, vocabulary = probs.shape
    if slots == 0:
        return torch.zeros(batch, vocabulary, dtype=torch.float64, device=probs.device)  # [B, V]
    law = probs[torch.arange(batch, device=probs.device), slot.clamp(max=slots - 1)].double()  # [B, V]
    return law * (slot < slots)[:, None]


def draft_law_at(draft_probs: Tensor, slot: Tensor, draft_length: Tensor) -> Tensor:
    """The law that a slot was drafted from, [B, V]; zero where nothing was drafted.

    Zero is what makes the bonus token no special case: the residual of a law over zero is the law itself.
    """
    return law_at(draft_probs, torch.where(slot < draft_length, slot, draft_probs.shape[1]))


def accept_probability(verifier: Tensor, draft: Tensor) -> Tensor:
    """min(1, verifier / draft), element by element, float64; where draft is 0: 1 if verifier > 0, else 0."""
    verifier, draft = verifier.double(), draft.double()
    return torch.where(draft > 0, verifier / draft, (verifier > 0).double()).clamp(max=1)


def residual(verifier: Tensor, draft: Tensor) -> Tensor:
    """norm(max(0, verifier - draft)) over the last dimension, float64; without mass, norm(verifier)."""
    verifier = verifier.double()
    excess = (verifier - draft.double()).clamp(min=0)  # [..., V]
    law = torch.where(excess.sum(-1, keepdim=True) > 0, excess, verifier)  # [..., V]
    return law / law.sum(-1, keepdim=True)


def per_slot(measure: Callable[..., Tensor], *probs: Tensor) -> Tensor:
    """measure(float64 laws [B, V]) -> [B] for each slot of [B, G, V]: [B, G] float64."""
    values = torch.zeros(probs[0].shape[:2], dtype=torch.float64, device=probs[0].device)  # [B, G]
    for slot in range(probs[0].shape[1]):
        values[:, slot] = measure(*(laws[:, slot].double() for laws in probs))
    return values


def total_variation(verifier: Tensor, draft: Tensor) -> Tensor:
    """Half the L1 distance of two laws, over the last dimension."""
    return (verifier - draft).abs().sum(-1) / 2


def accept_matching(draft_ids: Tensor, own_ids: Tensor, draft_length: Tensor) -> Verification:
    """Keep drafts while they equal own_ids [B, G + 1]; the next token is the own id where that ends."""
    accepted = count_leading((draft_ids == own_ids[:, :-1]) & drafted(draft_ids, draft_length))  # [B]
    return Verification(accepted, own_ids.gather(1, accepted[:, None]).squeeze(1))


def accept_tokenwise(
    accept: Tensor,
    draft_ids: Tensor,
    draft_probs: Tensor,
    verifier_probs: Tensor,
    generator: torch.Generator,
    draft_length: Tensor,
) -> Verification:
    """Keep each draft with its probability accept [B, G], up to the first failure; then the residual or the bonus."""
    batch, slots = draft_ids.shape
    noise = uniforms((batch, slots + 1), generator, draft_ids.device)  # [B, G + 1] last: the next token's
    accepted = count_leading((noise[:, :-1] < accept) & drafted(draft_ids, draft_length))  # [B]
    law = residual(law_at(verifier_probs, accepted), draft_law_at(draft_probs, accepted, draft_length))  # [B, V]
    return Verification(accepted, inverse_cdf(law, noise[:, -1]))


def require_draft_probs(rule: str, draft_probs: Tensor | None, verifier_probs: Tensor) -> Tensor:
    """Refuse drafts without a law, which only some rules can judge; no drafts (G = 0) need none."""
    if draft_probs is None and verifier_probs.shape[1] == 1:
        return verifier_probs[:, :0]  # [B, 0, V]
    if draft_probs is None:
        raise ValueError(
            f"{rule}: draft_probs=None: give the laws the drafts were drawn from, one-hot for greedy drafts, "
            "or use rule 'match'"
        )
    return draft_probs


def require_fraction(field: str, value: float, *, above_zero: bool = False) -> None:
    """Refuse a parameter outside [0, 1], or outside (0, 1]."""
    if not (0 < value <= 1 if above_zero else 0 <= value <= 1):
        raise ValueError(f"{field}={value}: must be in {'(0' if above_zero else '[0'}, 1]")
