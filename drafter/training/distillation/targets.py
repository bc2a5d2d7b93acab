"""What a push-forward model learns to give: tokens that are a function of the rows and of uniform noise.

Shapes: N positions of a row, each with its own noise for the G tokens behind it. Every teacher runs in its own dtype,
outside of autocast: two targets for the same context and noise would contradict each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from drafter.decode.sampling import probabilities
from drafter.models.push_forward import PushForwardModel
from drafter.verification.base import inverse_cdf
from drafter.verifier import Verifier

CHUNK = 256  # positions whose laws over the vocabulary exist at a time


@dataclass(frozen=True)
class Lesson:
    """What a step shows and asks.

    Attributes:
        ids: the context, [B, N].
        noise: [B, N, G].
        temperature: [B].
        targets: tokens, [B, N, G].
    """

    ids: Tensor
    noise: Tensor
    temperature: Tensor
    targets: Tensor


def sampled(verifier: Verifier, ids: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
    """The verifier's next token behind every position, by inverse CDF: stage 1.

    min{v : F_t(v) > z} with F_t the cumulated law softmax(logits / temperature) of position t, in order of ids.

    Args:
        ids: [B, N]; noise: [B, N, 1]; temperature: [B].
    Returns:
        [B, N, 1].
    Source: arXiv:2606.10820, eq. 2, with j = 1.
    """
    return _by_position(verifier, ids, temperature, inverse_cdf, noise.flatten()).view(noise.shape)


@torch.no_grad()
def self_forced(teacher: PushForwardModel, ids: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
    """The teacher's own tokens, twice as many as it gives in a pass: it goes on behind its own first block.

    Args:
        ids: [B, N]; noise: [B, N, G] with G up to twice the teacher's; temperature: [B].
    Returns:
        [B, N, G].
    Source: arXiv:2606.10820, progressive self-forcing.
    """
    with torch.autocast(ids.device.type, enabled=False):
        half = min(teacher.tokens_per_pass, noise.shape[2])
        context = teacher.read(ids)
        first = _argmax(teacher, teacher.fill(context, teacher.noise(noise[..., :half], temperature[:, None, None])))
        if half == noise.shape[2]:
            return first
        second = _argmax(teacher, teacher.forward_behind(context, first, noise[..., half:], temperature))
    return torch.cat([first, second], dim=2)  # [B, N, G]


def inverted(verifier: Verifier, ids: Tensor, count: int, uniforms: Tensor, temperature: Tensor) -> Lesson:
    """The rows' own tokens, and noise that the verifier would have turned into them: the baseline of noise inversion.

    z = F(x - 1) + u (F(x) - F(x - 1)) for the token x that follows in the row, F the cumulated law of its position.

    Args:
        ids: [B, N + count]; the last `count` tokens are targets only.
        uniforms: [B, N + count - 1], one for each token but the first.
    Source: PTP, as described in arXiv:2606.10820; here in order of ids, as the other targets.
    """
    following = ids[:, 1:]  # [B, L]

    def invert(laws: Tensor, chosen: Tensor, u: Tensor) -> Tensor:
        laws = laws.double()
        cumulated = laws.cumsum(-1)
        above = cumulated.gather(-1, chosen[:, None]).squeeze(-1)
        mass = laws.gather(-1, chosen[:, None]).squeeze(-1)
        z = (above - mass + u * mass) / cumulated[..., -1]
        return z.clamp(0, 1 - torch.finfo(torch.float64).eps)

    each = _by_position(verifier, ids[:, :-1], temperature, invert, following.flatten(), uniforms.flatten())
    noise = each.view(following.shape).unfold(1, count, 1)  # [B, N, G] token j behind position t is following[t + j]
    return Lesson(ids[:, : noise.shape[1]], noise, temperature, following.unfold(1, count, 1))


def independent(ids: Tensor, count: int, temperature: Tensor) -> Lesson:
    """The rows' own tokens and no noise at all: the baseline whose slots learn marginals."""
    targets = ids[:, 1:].unfold(1, count, 1)  # [B, N, G]
    return Lesson(ids[:, : targets.shape[1]], torch.zeros(targets.shape, device=ids.device), temperature, targets)


@torch.no_grad()
def _by_position(verifier: Verifier, ids: Tensor, temperature: Tensor, of: Callable, *beside: Tensor) -> Tensor:
    """`of(laws [C, V], ...)` over chunks of all positions of ids [B, N]: [B*N]."""
    with torch.autocast(ids.device.type, enabled=False):
        hidden, _ = verifier.step(ids, verifier.new_cache(*ids.shape))  # [B, N, D]
        warmth = temperature[:, None].expand(ids.shape).flatten()  # [B*N]
        split = (one.split(CHUNK) for one in (hidden.flatten(0, 1), warmth, *beside))
        parts = [
            of(probabilities(verifier.logits(chunk) / warm[:, None]), *own)
            for chunk, warm, *own in zip(*split, strict=True)
        ]
    return torch.cat(parts).clone()  # no longer of inference mode: a loss keeps them for its backward pass


def _argmax(model: PushForwardModel, hidden: Tensor) -> Tensor:
    parts = [model.logits(chunk).argmax(-1) for chunk in hidden.flatten(0, 2).split(CHUNK)]
    return torch.cat(parts).view(hidden.shape[:3])
