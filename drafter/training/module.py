"""The Lightning module: it wires batches, drafter, scores and losses; the mathematics lives in those."""

import copy
from collections import Counter
from dataclasses import asdict
from typing import Any, cast

import lightning
import torch
from torch import Tensor
from torch.distributed._composable import checkpoint

from drafter.blocks import slot_ids, slot_labels, slots_before
from drafter.config import AlignmentConfig
from drafter.data.coverage import Coverage
from drafter.data.rows import Rows
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.walk import exact_head, leading_matches, walk
from drafter.export.original import weights_of
from drafter.models import BlockDiffusionDrafter
from drafter.models.storage import facts_of
from drafter.training.average import Average
from drafter.training.batches import Batch
from drafter.training.head import Head
from drafter.training.optimisation import optimisation
from drafter.training.sharding import shard, whole_weights
from drafter.training.watched import Watched, tokens_of_whole_blocks
from drafter.verifier import VerifierHead
from losses import BlockScores, score_blocks, verifier_labels

MONITOR = "tokens_per_cycle_held_out"


class DrafterModule(lightning.LightningModule):
    """Trains a drafter; the frozen verifier is held in a tuple, so that it is no child and in no checkpoint.

    Attributes:
        average: of the drafter's weights; None where the recipe has none.
        walked: what a validation found, with the weights that are left, or None of weights that it has not seen.
    """

    def __init__(
        self,
        config: AlignmentConfig,
        drafter: BlockDiffusionDrafter,
        verifier: VerifierHead,
        validation: list[tuple[Rows, Tensor]],
    ):
        super().__init__()
        self.save_hyperparameters(asdict(config))  # a plain dict: loads with weights_only=True
        self.config, self.drafter = config, drafter
        drafter.attention = config.training.attention
        decay = config.training.average
        self.average = Average(drafter, decay) if decay else None
        self._frozen = (verifier,)
        self._fingerprint = verifier.fingerprint()  # once: it reads a little of every weight
        self._validation = validation
        self.head = Head(verifier.output, drafter.vocabulary, config.training.sampled_tokens)
        self._walked: dict[str, Cycles] = {}
        self.coverage = Coverage()
        self.amounts: Counter[str] = Counter()
        self.watched = Watched()
        self._spare: tuple[BlockDiffusionDrafter] | None = None  # of a drafter that ranks share out, one to walk with
        self.to(verifier.device)  # walks come before the trainer moves it, too

    @property
    def verifier(self) -> VerifierHead:
        return self._frozen[0]

    def configure_model(self) -> None:
        """Make the drafter what its recipe and strategy want in training; where ranks share it out, a copy of it."""
        settings = self.config.training
        if self.device_mesh is not None and self._spare is None:
            whole, self.drafter = self.drafter, copy.deepcopy(self.drafter)
            self._spare = (whole.to("cpu"),)  # off the device, but for a walk
            mesh = self.device_mesh["data_parallel"]
            for model in [self.drafter] if self.average is None else [self.drafter, self.average.model]:
                shard(cast(BlockDiffusionDrafter, model), mesh)
        for layer in self.drafter.layers:
            if settings.checkpointing:
                checkpoint(layer)
            layer.compiled = settings.compile

    @property
    def walked(self) -> Cycles | None:
        return self._walked.get(self.left)

    @property
    def left(self) -> str:
        """The child whose weights are left."""
        return "average.model" if self.average and self.config.training.exported == "average" else "drafter"

    def scores(self, batch: Batch) -> BlockScores:
        """Drafter → per-slot scores of a batch with its taps."""
        number, rows, taps, anchors, used, *_ = batch
        settings = self.config.training
        size, mask_id = self.drafter.block_size, self.drafter.mask_token_id
        if taps is None:
            raise TypeError("a batch comes with its taps: see drafter.taps.TapSource")
        taps, final = taps.tensor_split([self.drafter.fc.in_features], dim=-1)  # [B, S, T*D], [B, S, D or 0]
        block = self.verifier.embed(slot_ids(rows.ids, anchors, size, mask_id))  # [B, A, K, D]
        if not torch.is_autocast_enabled(self.device.type):  # under autocast taps need no wider copy
            taps = taps.to(self.dtype)
        hidden = self.drafter(block, taps, anchors, rows.documents)[:, :, 1:]  # [B, A, G, D]
        output = self.verifier.output
        labels, valid = slot_labels(rows.ids, rows.supervised, anchors, used, size, rows.documents)  # [B, A, G]
        before = slots_before(final, anchors, size) if self.config.needs_states else None  # [B, A, G, D]
        if before is not None and settings.labels == "verifier":
            labels[valid] = verifier_labels(output.unfolded(before[valid]), self.head.weight)
        dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else self.dtype
        step = number // settings.accumulate
        weight, labels, correction = self.head.draw(labels, valid, f"{self.config.seed} {step}", dtype)
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
            softcap=output.softcap,
        )

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        scores = self.scores(batch)
        losses, slots = self.config.losses, batch.slots
        total, terms = losses(scores, step=self.global_step, slots=slots)
        self.coverage.add(batch.drafted, batch.supervised, batch.epoch_ends)
        self.amounts.update(tokens=batch.tokens, anchors=batch.blocks)
        if batch.epoch_ends:  # by the loggers themselves: what `log` is told between two logged steps is lost
            for logger in self.loggers:
                logger.log_metrics({"anchor_coverage": self.coverage.share}, self.global_step)
        if (self.global_step + 1) % self.config.training.log_every == 0:  # the steps whose figures the trainer writes
            norms = losses.gradient_norms(scores, slots=slots)
            self.watched.add(total, terms, norms, tokens_of_whole_blocks(scores))
            if (batch.number + 1) % self.config.training.accumulate == 0:
                found = self.watched.take()
                shown = {name: found.pop(name) for name in ("loss", "tokens_per_block") if name in found}
                self.log_dict(shown, prog_bar=True)
                self.log_dict(found)
        return total

    def on_validation_start(self) -> None:
        """Walk over the validation rows, one pass over all of them; other ranks than the first hold none."""
        found = {}
        for child in ["drafter"] if self.average is None else ["drafter", "average.model"]:
            drafter = self.whole(child)
            if drafter is not None:
                found[child] = self.walk(drafter)
        if self._spare is not None:
            self._spare[0].to("cpu")
        self._walked = self.trainer.strategy.broadcast(found)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Log what the walks found: of the weights that are left, and of the others beside them."""
        for child, cycles in self._walked.items():
            other = "" if child == self.left else f"_{'raw' if child == 'drafter' else 'average'}"
            figures = {MONITOR: cycles.tokens_per_cycle, "accepted_per_cycle_held_out": cycles.accepted_per_cycle}
            named = {f"{name}{other}": value for name, value in figures.items()}
            self.log_dict(named, batch_size=1)
        if self.walked is not None:
            self.log("tokens_per_cycle", self.walked.tokens_per_cycle, prog_bar=True, logger=False, batch_size=1)

    def whole(self, child: str) -> BlockDiffusionDrafter | None:
        """A child with all its weights; every rank must call, the first alone gets it."""
        model = cast(BlockDiffusionDrafter, self.get_submodule(child))
        if self._spare is not None:
            weights = whole_weights(model)
            model = self._spare[0].to(self.device)
            if self.trainer.is_global_zero:
                model.load_state_dict(weights)
        return model if self.trainer.is_global_zero else None

    def leading(
        self, batches: list[tuple[Rows, Tensor]], drafter: BlockDiffusionDrafter | None = None
    ) -> list[list[int]]:
        """Leading matches at every anchor of rows with their taps, in float32 whatever the training precision."""
        drafter = drafter or self.drafter
        if not batches:  # of other ranks than the first
            return []
        head, device = exact_head(drafter, self.verifier), self.device
        with torch.autocast(device.type, enabled=False):
            return [
                row
                for rows, taps in batches
                for row in leading_matches(drafter, self.verifier, rows.to(device), taps.to(device), head)
            ]

    def walk(self, drafter: BlockDiffusionDrafter | None = None) -> Cycles:
        """Tokens per cycle over the validation rows."""
        return walk(self.leading(self._validation, drafter), self.drafter.block_size - 1)

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        super().optimizer_step(*args, **kwargs)
        self._walked = {}  # of other weights than these
        if self.average is not None:  # here and not behind the batch: a checkpoint is made before that
            self.average.take(self.drafter, self.global_step + 1)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["coverage"] = self.coverage.state()
        checkpoint["drafter"] = {  # what an export needs beside the weights
            "facts": facts_of(self.drafter.config, torch.float32),
            "vocabulary": None if self.drafter.vocabulary is None else self.drafter.vocabulary.cpu(),
            "verifier": self._fingerprint,
            "tokens_per_cycle": self.walked.tokens_per_cycle if self.walked else None,
            "weights": self.left,
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.coverage = Coverage(**checkpoint["coverage"])

    def configure_optimizers(self) -> dict:
        return optimisation(self.drafter, self.config.training)


def trained_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The drafter's weights that a checkpoint leaves: as they are, or their average."""
    return weights_of(checkpoint, checkpoint["drafter"].get("weights", "drafter"))
