"""The rows of the verifier's head that a step of training looks at."""

import math
import random

import torch
from torch import Tensor

from drafter.verifier.output import OutputHead


class Head:
    """The whole head, or a draft vocabulary with a random sample of the rest.

    With a draft vocabulary (FR-Spec, arXiv:2502.14856) a step scores against its rows, the labels missing from it, and
    `sampled` tokens drawn anew from the others; the logits of those are raised by the log of how many tokens each
    stands for, so that the normaliser's expectation is that of the full softmax and the full head serves the same
    drafter.

    Args:
        output: the verifier's.
        vocabulary: ids that the drafter may propose, ascending; None for all.
        sampled: 0 trains against the draft vocabulary alone.
    """

    def __init__(self, output: OutputHead, vocabulary: Tensor | None, sampled: int):
        self.weight, self.vocabulary = output.folded(), vocabulary
        size = len(self.weight)
        self._others = torch.zeros(0, dtype=torch.long)
        if vocabulary is not None:
            kept = torch.zeros(size, dtype=torch.bool)
            kept[vocabulary.cpu()] = True
            self._others = (~kept).nonzero()[:, 0]
        self._sampled = min(sampled, len(self._others))
        self._wide: dict[torch.dtype, Tensor] = {}

    def draw(
        self, labels: Tensor, valid: Tensor, seed: str, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of the folded head [V', D] in `dtype`, labels as indices of those rows, their logits' correction [V'].

        Args:
            labels: ids, [B, A, G]; valid: bool [B, A, G].
            seed: of the sample: what shares it sees the same tokens.
        """
        if dtype not in self._wide:
            self._wide[dtype] = self.weight.to(dtype)
        whole = self._wide[dtype]
        if self.vocabulary is None:
            return whole, labels, None
        device = labels.device
        self.vocabulary, self._others = self.vocabulary.to(device), self._others.to(device)
        generator = torch.Generator(device).manual_seed(random.Random(seed).getrandbits(63))
        order = torch.randperm(len(self._others), generator=generator, device=device)
        ids = torch.cat([self.vocabulary, self._others[order[: self._sampled]]])  # [V']
        place = torch.full((len(whole),), -1, device=device)
        place[ids] = torch.arange(len(ids), device=device)
        wanted = torch.zeros(len(whole), dtype=torch.int32, device=device)  # how often each token is a label
        wanted.index_add_(0, labels.flatten(), valid.flatten().int())
        missing = ((wanted > 0) & (place < 0)).nonzero()[:, 0]  # labels of rare tokens are always scored
        place[missing] = len(ids) + torch.arange(len(missing), device=device)
        ids = torch.cat([ids, missing])
        correction = torch.zeros(len(ids), device=device)
        if self._sampled:
            first = len(self.vocabulary)
            correction[first : first + self._sampled] = math.log(len(self._others) / self._sampled)
            correction.masked_fill_(wanted[ids] > 0, 0.0)  # a label stands for itself alone, drawn or not
        return whole.index_select(0, ids), place[labels].clamp(min=0), correction
