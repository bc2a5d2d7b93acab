"""How likely an answer is to the verifier, where no task says what is right."""

from collections.abc import Sequence

import torch

from drafter.evaluation.rewards.base import Answered
from drafter.verifier import Verifier


class LogLikelihood:
    """The verifier's mean log-probability of an answer's tokens, in nats, at temperature 1.

    Args:
        together: answers of a pass.
    """

    def __init__(self, verifier: Verifier, together: int = 8):
        self.verifier, self.together = verifier, together

    @torch.inference_mode()
    def __call__(self, answers: Sequence[Answered]) -> list[float]:
        """One number <= 0 each; 0 for an answer without tokens."""
        found = []
        for first in range(0, len(answers), self.together):
            found += self._pass(answers[first : first + self.together])
        return found

    def _pass(self, answers: Sequence[Answered]) -> list[float]:
        rows = [[*one.prompt_ids, *one.ids] for one in answers]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)  # [B, S] right-padded: all is causal
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
        ids = ids.to(self.verifier.device)
        hidden, _ = self.verifier.step(ids, self.verifier.new_cache(*ids.shape))  # [B, S, D]
        found = []
        for row, one in enumerate(answers):
            if not one.ids:
                found.append(0.0)
                continue
            begin = len(one.prompt_ids)
            behind = hidden[row, begin - 1 : begin - 1 + len(one.ids)]  # [T, D] one state before each token
            scores = self.verifier.logits(behind).float().log_softmax(-1)  # [T, V]
            emitted = ids[row, begin : begin + len(one.ids)]  # [T]
            found.append(float(scores.gather(1, emitted[:, None]).mean()))
        return found
