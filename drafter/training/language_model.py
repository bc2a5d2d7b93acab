"""The Lightning module of a causal language model from scratch."""

import random
from collections import Counter
from typing import Any

import lightning
import torch
from torch import Tensor

from drafter.config import FittingConfig
from drafter.training.batches.texts import TextBatch
from drafter.training.optimisation import optimisation

MONITOR = "likelihood_held_out"
ROWS_PER_PASS = 8


class LanguageModelModule(lightning.LightningModule):
    """Next-token cross-entropy in nats.

    Args:
        held_out: ids, [R, S].
        seed: what a model draws as it trains, as dropout does, follows from it and from the number of the micro-step.
    """

    def __init__(self, model: Any, settings: FittingConfig, held_out: Tensor, seed: int):
        super().__init__()
        self.model, self.settings, self.held_out, self.seed = model, settings, held_out, seed
        self.amounts: Counter[str] = Counter()

    def loss(self, ids: Tensor) -> Tensor:
        """Mean negative log-likelihood of ids [B, S], each but the first."""
        loss: Tensor = self.model(input_ids=ids, labels=ids, use_cache=False).loss
        return loss

    def training_step(self, batch: TextBatch, batch_index: int) -> Tensor:
        torch.manual_seed(random.Random(f"{self.seed} {batch.number} {self.global_rank}").getrandbits(63))
        loss = self.loss(batch.ids)
        self.amounts.update(tokens=batch.ids.numel())
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log(MONITOR, -self.nll(), prog_bar=True, sync_dist=True, batch_size=1)

    @torch.no_grad()
    def nll(self) -> float:
        """Nats per token of the held-out rows."""
        parts = self.held_out.split(ROWS_PER_PASS)
        sums = [float(self.loss(part.to(self.device).long())) * len(part) for part in parts]
        return sum(sums) / len(self.held_out)

    def configure_optimizers(self) -> dict:
        return optimisation(self.model, self.settings)
