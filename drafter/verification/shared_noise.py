"""Keep drafts while the verifier maps the drafter's own noise to the same tokens."""

import torch
from torch import Tensor

from drafter.verification.base import Verification, accept_matching, draft_lengths, inverse_cdf


def shared_noise(
    draft_ids: Tensor,
    draft_probs: Tensor | None,
    verifier_probs: Tensor,
    generator: torch.Generator | None,
    *,
    noise: Tensor,
    draft_length: Tensor | None = None,
) -> Verification:
    """For drafters that are a function of noise: y_i = min{v : F_i(v) > z_i}, accept while draft_i = y_i, then emit y.

    F_i is the verifier's cumulated law over token ids in their order, z = noise; the sum is float64. Law: the
    verifier's, if the noise is independent and uniform on [0, 1) and draft i depends on noise 1..i only, or else if a
    position keeps its noise from cycle to cycle until it is emitted. The output is then a function of the noise alone:
    the tokens that inverse-CDF sampling from the verifier gives. Drafts need no law.

    Args:
        draft_ids: proposed tokens, [B, G].
        draft_probs: not used; may be None.
        verifier_probs: the verifier's laws, [B, G + 1, V].
        generator: not used; may be None.
        noise: numbers in [0, 1), [B, G + 1]: those of the drafts, and a fresh one for the bonus token.
        draft_length: slots drafted in each row, [B]; None for G. The bonus token takes noise[b, draft_length[b]].
    Raises:
        ValueError: shapes do not belong together, or noise is not in [0, 1).
    Source: the coupling of arXiv:2606.10820, eq. 2, used as a rule.
    """
    length = draft_lengths("shared_noise", draft_ids, draft_probs, verifier_probs, draft_length)
    if noise.shape != verifier_probs.shape[:2]:
        raise ValueError(
            f"shared_noise: noise has shape {list(noise.shape)}: must be [B, G + 1], "
            f"here {list(verifier_probs.shape[:2])}"
        )
    if not bool(((noise >= 0) & (noise < 1)).all()):
        raise ValueError("shared_noise: noise has values outside [0, 1): give uniform numbers, as torch.rand does")
    return accept_matching(draft_ids, inverse_cdf(verifier_probs, noise), length)
