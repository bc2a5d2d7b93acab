"""The Lightning module of one stage: rows → the teacher's lesson → student → scores; an average of its weights."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import lightning
import torch
from torch import Tensor

from drafter.config import DistillationConfig, Stage
from drafter.export.push_forward import KEPT
from drafter.models import PushForwardModel
from drafter.training.average import Average
from drafter.training.batches.texts import TextBatch
from drafter.training.distillation.scoring import Scores, score_tokens
from drafter.training.distillation.targets import Lesson, independent, inverted, sampled, self_forced
from drafter.training.optimisation import optimisation
from drafter.verifier import Verifier

MONITOR = "likelihood_held_out"
ROWS_PER_PASS = 8


class DistillationModule(lightning.LightningModule):
    """Teaches a push-forward model one number of tokens per pass.

    Args:
        teacher: the verifier, or the push-forward model that gives half as many; no child, so in no checkpoint.
        held_out: ids, [R, S].
    Attributes:
        average: of the student's weights; None where the recipe has none.
    """

    def __init__(
        self,
        config: DistillationConfig,
        stage: Stage,
        student: PushForwardModel,
        teacher: Verifier | PushForwardModel,
        held_out: Tensor,
    ):
        super().__init__()
        self.config, self.stage, self.held_out = config, stage, held_out
        self.student = student.train()
        self._teacher = (teacher,)
        self.amounts: Counter[str] = Counter()
        self.average = Average(student, config.student.average) if config.student.average else None

    @property
    def left(self) -> str:
        """The child that the stage leaves."""
        return "student" if self.average is None else "average.model"

    @property
    def result(self) -> PushForwardModel:
        return cast(PushForwardModel, self.get_submodule(self.left))

    def lesson(self, ids: Tensor, places: Sequence[object]) -> Lesson:
        """What rows [B, S] teach; a row's noise is a function of the recipe's seed, the stage and the row's place."""
        count = self.stage.tokens_per_pass
        seeds = [random.Random(f"{self.config.seed} {count} {place}").getrandbits(63) for place in places]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        low, high = self.config.student.temperatures

        def draw(*shape: int) -> Tensor:  # [B, ...]
            rows = [torch.rand(shape, generator=generator, dtype=torch.float64) for generator in generators]
            return torch.stack(rows).to(ids.device)

        temperature = (low + (high - low) * draw()).float()  # [B]
        teacher = self._teacher[0]
        if self.config.objective == "independent":
            return independent(ids, count, temperature)
        if self.config.objective == "noise_inversion":
            assert isinstance(teacher, Verifier)
            return inverted(teacher, ids, count, draw(ids.shape[1] - 1), temperature)
        context = ids[:, :-count]  # [B, N]
        noise = draw(context.shape[1], count)  # [B, N, G]
        if isinstance(teacher, Verifier):
            return Lesson(context, noise, temperature, sampled(teacher, context, noise, temperature))
        return Lesson(context, noise, temperature, self_forced(teacher, context, noise, temperature))

    def scores(self, model: PushForwardModel, lesson: Lesson) -> Scores:
        hidden = model(lesson.ids, lesson.noise, lesson.temperature)  # [B, N, G, D]
        return score_tokens(model.logits, hidden, lesson.targets)

    def training_step(self, batch: TextBatch, batch_index: int) -> Tensor:
        scores = self.scores(self.student, self.lesson(batch.ids, batch.places))
        self.amounts.update(tokens=batch.ids.numel())
        self.log("loss", scores.loss.detach(), prog_bar=True)
        self.log_dict(stage_figures("train", scores))
        return scores.loss

    def optimizer_step(self, *args: object, **kwargs: object) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:  # here and not behind the batch: a checkpoint is made before that
            self.average.take(self.student, self.global_step + 1)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Log what the weights that would be left now make of the held-out rows."""
        found = self.held_out_scores()
        self.log_dict(stage_figures("held_out", found), sync_dist=True, batch_size=1)
        self.log(MONITOR, -found.loss, prog_bar=True, sync_dist=True, batch_size=1)

    @torch.no_grad()
    def held_out_scores(self) -> Scores:
        """Scores of the held-out rows with noise of their own, always the same, in float32."""
        found: list[tuple[int, Scores]] = []
        with torch.autocast(self.device.type, enabled=False):
            for number, part in enumerate(self.held_out.split(ROWS_PER_PASS)):
                places = [f"held out {number * ROWS_PER_PASS + row}" for row in range(len(part))]
                lesson = self.lesson(part.to(self.device).long(), places)
                found.append((len(part), self.scores(self.result, lesson)))
        rows = sum(count for count, _ in found)
        means = (sum(count * getattr(one, name) for count, one in found) / rows for name in ("nll", "match", "whole"))
        return Scores(*means)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What `drafter export` makes a model of: its config, and whose weights the stage leaves."""
        about = {"config": self.student.config.to_dict(), "weights": self.left, "recipe": asdict(self.config)}
        checkpoint[KEPT] = about

    def configure_optimizers(self) -> dict:
        return optimisation(self.student, self.stage)


def stage_figures(where: str, scores: Scores) -> dict[str, Tensor]:
    """Loss and match of every offset, and the share of whole blocks that match, by name."""
    found = {f"{where}/whole_match": scores.whole.detach()}
    for at, (nll, match) in enumerate(zip(scores.nll.detach(), scores.match, strict=True), 1):
        found |= {f"{where}/nll_{at}": nll, f"{where}/match_{at}": match}
    return found
