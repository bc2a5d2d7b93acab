"""The Lightning module: it wires batches, drafter, scores and losses; the mathematics lives in those."""

import math
import time
from dataclasses import asdict

import lightning
import torch
from torch import Tensor

from drafter.blocks import slot_ids, slot_labels, slots_before
from drafter.config import AlignmentConfig
from drafter.data.coverage import Coverage
from drafter.data.rows import Rows
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.walk import leading_matches, walk
from drafter.models import BlockDiffusionDrafter
from drafter.models.storage import facts_of
from drafter.training.batches import Batch
from drafter.training.head import Head
from drafter.verifier import Verifier
from losses import BlockScores, score_blocks, verifier_labels

MONITOR = "tokens_per_cycle_held_out"


class DrafterModule(lightning.LightningModule):
    """Trains a drafter; the frozen verifier is held in a tuple, so that it is no child and in no checkpoint."""

    def __init__(
        self,
        config: AlignmentConfig,
        drafter: BlockDiffusionDrafter,
        verifier: Verifier,
        held_out: list[tuple[Rows, Tensor]],
    ):
        super().__init__()
        self.save_hyperparameters(asdict(config))  # a plain dict: loads with weights_only=True
        self.config, self.drafter = config, drafter
        self._frozen = (verifier,)
        self._held_out = held_out
        self.head = Head(verifier.output, drafter.vocabulary, config.training.sampled_tokens)
        self.walked: Cycles | None = None
        self.coverage = Coverage()
        self.seconds = 0.0
        self._began = 0.0
        self.to(verifier.device)  # walks come before the trainer moves it, too

    @property
    def verifier(self) -> Verifier:
        return self._frozen[0]

    def scores(self, batch: Batch) -> BlockScores:
        """Drafter → per-slot scores of a batch with its taps."""
        number, rows, taps, anchors, used, *_ = batch
        size, mask_id = self.drafter.block_size, self.drafter.mask_token_id
        if taps is None:
            raise TypeError("a batch comes with its taps: see drafter.taps.TapSource")
        taps, final = taps.tensor_split([self.drafter.fc.in_features], dim=-1)  # [B, S, T*D], [B, S, D or 0]
        block = self.verifier.embed(slot_ids(rows.ids, anchors, size, mask_id))  # [B, A, K, D]
        hidden = self.drafter(block, taps.to(self.dtype), anchors, rows.documents)[:, :, 1:]  # [B, A, G, D]
        output = self.verifier.output
        labels, valid = slot_labels(rows.ids, rows.supervised, anchors, used, size, rows.documents)  # [B, A, G]
        before = slots_before(final, anchors, size) if self.config.needs_states else None  # [B, A, G, D]
        if before is not None and self.config.training.labels == "verifier":
            labels[valid] = verifier_labels(output.unfolded(before[valid]), self.head.weight)
        dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else torch.float32
        weight, labels, correction = self.head.draw(labels, valid, number, dtype)
        settings = self.config.training
        return score_blocks(
            output.unfolded(hidden),
            weight,
            labels,
            valid,
            settings.chunk_size,
            log_correction=correction,
            needs=self.config.losses.needs,
            verifier_hidden=None if before is None or not self.config.losses.compare_laws else output.unfolded(before),
            temperature=settings.temperature,
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        scores = self.scores(batch)
        total, terms = self.config.losses(scores, step=self.global_step)
        with torch.no_grad():
            leading = (scores.hit & scores.valid).cumprod(-1).sum(-1)[scores.valid[..., 0]]  # [blocks]
            logged = {f"train/{name}": value.detach() for name, value in terms.items()}
            self.log_dict(logged, sync_dist=True)  # each rank has its share of the global mean, times the ranks
            self.log("loss", total.detach(), prog_bar=True, sync_dist=True)
            self.log("tokens_per_block", leading.float().mean() + 1, prog_bar=True, sync_dist=True)
        self.coverage.add(batch.drafted, batch.supervised, batch.epoch_ends)
        if batch.epoch_ends:  # by the loggers themselves: what `log` is told between two logged steps is lost
            for logger in self.loggers:
                logger.log_metrics({"anchor_coverage": self.coverage.share}, self.global_step)
        if self.global_step % self.config.training.log_every == 0:
            norms = self.config.losses.gradient_norms(scores)
            self.log_dict({f"gradient_norm/{name}": norm for name, norm in norms.items()})
        return total

    def on_validation_start(self) -> None:
        self.walked = self.walk()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Log what the walk over the held-out rows found; the walk itself is one pass over all of them."""
        if self.walked is not None:
            found = {
                MONITOR: self.walked.tokens_per_cycle,
                "accepted_per_cycle_held_out": self.walked.accepted_per_cycle,
            }
            self.log_dict(found, prog_bar=True, sync_dist=True, batch_size=1)

    def leading(self) -> list[list[int]]:
        """Leading matches at every anchor of the held-out rows, in float32 whatever the training precision."""
        with torch.autocast(self.device.type, enabled=False):
            return [
                row
                for rows, taps in self._held_out
                for row in leading_matches(self.drafter, self.verifier, rows.to(self.device), taps.to(self.device))
            ]

    def walk(self) -> Cycles:
        """Tokens per cycle over the held-out rows."""
        return walk(self.leading(), self.drafter.block_size - 1)

    def on_train_start(self) -> None:
        self._began = time.perf_counter() - self.seconds

    def on_train_batch_end(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.walked = None  # of other weights than these

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["seconds"] = self.seconds
        checkpoint["coverage"] = self.coverage.state()
        checkpoint["drafter"] = {  # what an export needs beside the weights
            "facts": facts_of(self.drafter.config, torch.float32),
            "vocabulary": None if self.drafter.vocabulary is None else self.drafter.vocabulary.cpu(),
            "verifier": self.verifier.fingerprint(),
            "tokens_per_cycle": None if self.walked is None else self.walked.tokens_per_cycle,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.seconds = checkpoint["seconds"]
        self.coverage = Coverage(**checkpoint["coverage"])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip here: Lightning refuses to clip for a fused optimiser, whose step takes two thirds of the other's."""
        norm = torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), self.config.training.clip)
        self.log("gradient_norm/all", norm)

    def configure_optimizers(self) -> dict:
        settings = self.config.training
        optimizer = torch.optim.AdamW(
            self.drafter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        warmup = max(1, round(settings.warmup * settings.max_steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, settings.max_steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
