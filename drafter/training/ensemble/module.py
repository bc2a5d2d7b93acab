"""The Lightning module of a dynamic ensemble: it wires roll-outs, reward and objective; both models stay frozen."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from drafter.config import EnsembleConfig
from drafter.decode import Generation, tokens_per_cycle
from drafter.evaluation.rewards import Answered, Reward, Task
from drafter.models.base import Drafter
from drafter.models.ensemble_head import EnsembleHead
from drafter.training.batches.loader import loader
from drafter.training.ensemble.policy import ensemble_loss
from drafter.training.ensemble.rollouts import Weighed, roll_out
from drafter.training.fitting import Batches
from drafter.training.optimisation import optimisation
from drafter.verifier import Verifier

MONITOR = "objective_held_out"


class EnsembleModule(lightning.LightningModule):
    """Trains an EnsembleHead by its own roll-outs.

    Every `ensemble.updates` steps the head as it is answers a batch of prompts, `ensemble.rollouts` times each; the
    steps until the next batch are taken on these answers. `behaviour` is the head that gave them: with it, a resumed
    run makes the same answers again.

    Args:
        tasks, held_out: to train on, and to validate by.
    """

    def __init__(
        self,
        config: EnsembleConfig,
        verifier: Verifier,
        drafter: Drafter,
        head: EnsembleHead,
        tasks: Sequence[Task],
        held_out: Sequence[Task],
        reward: Reward,
    ):
        super().__init__()
        self.save_hyperparameters(asdict(config))  # a plain dict: loads with weights_only=True
        self.config, self.head = config, head
        self.behaviour = EnsembleHead(head.config).requires_grad_(False)
        self.behaviour.load_state_dict(head.state_dict())
        self._frozen = verifier, drafter  # in a tuple: no children, in no checkpoint
        self.tasks, self.held_out, self.reward = tasks, held_out, reward
        self._batch: tuple[int, Weighed, Tensor] | None = None  # number, what was weighed, rewards [R]
        self.register_buffer("spread", torch.tensor(math.nan))  # of rewards before training: the objective's unit

    def answer(self, tasks: Sequence[Task], head: EnsembleHead, seed: int) -> tuple[list[Generation], Weighed, Tensor]:
        """Roll-outs of tasks, in order, and their rewards [R]."""
        verifier, drafter = self._frozen
        settings = self.config.ensemble
        prompts = [verifier.chat_ids(task.prompt) for task in tasks]
        answers, weighed = roll_out(
            verifier,
            drafter,
            head,
            prompts,
            self.config.tasks.max_new_tokens,
            seed=seed,
            temperature=settings.temperature,
            draft_length=settings.draft_length,
        )
        texts = [verifier.tokenizer.decode(one.token_ids, skip_special_tokens=True) for one in answers]
        answered = [
            Answered(task, text, prompt, one.token_ids)
            for task, text, prompt, one in zip(tasks, texts, prompts, answers, strict=True)
        ]
        rewards = torch.tensor(self.reward(answered), dtype=torch.float64, device=verifier.device)  # [R]
        return answers, weighed, rewards

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        settings = self.config.ensemble
        number, update = divmod(int(batch), settings.updates)
        if update == 0:
            self.behaviour.load_state_dict(self.head.state_dict())
        if self._batch is None or self._batch[0] != number:
            tasks = [task for task in self.prompts(number) for _ in range(settings.rollouts)]
            answers, weighed, rewards = self.answer(tasks, self.behaviour, seed_of(self.config.seed, number))
            self._batch = number, weighed, rewards
            self.log_dict({"reward": rewards.mean(), "tokens_per_cycle": tokens_per_cycle(answers)}, prog_bar=True)
        _, weighed, rewards = self._batch
        weight = self.head(weighed.drafter_hidden, weighed.verifier_hidden).double()  # [N]
        loss, parts = ensemble_loss(
            weight,
            weighed.weight,
            weighed.verifier,
            weighed.draft,
            weighed.variation,
            weighed.trajectory,
            rewards,
            acceptance_weight=settings.acceptance_weight,
            clip=settings.clip,
        )
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        self.log_dict({"loss": loss.detach(), "verifier_weight": weight.detach().mean()})
        return loss.float()

    def prompts(self, number: int) -> list[Task]:
        """The tasks of a batch: each once before any comes again, in another order then."""
        rows, found = self.config.training.rows, []
        for at in range(number * rows, (number + 1) * rows):
            epoch, place = divmod(at, len(self.tasks))
            order = random.Random(f"{self.config.seed} {epoch}").sample(range(len(self.tasks)), len(self.tasks))
            found.append(self.tasks[order[place]])
        return found

    def validate(self) -> dict[str, float]:
        """The objective on the held-out tasks, and what it is made of; the same random numbers every time."""
        answers, weighed, rewards = self.answer(self.held_out, self.head, seed_of(self.config.seed, -1))
        if self.spread.isnan():
            self.spread.fill_(rewards.std(correction=0))
        accepted = (1 - weighed.weight * weighed.variation).sum() / len(rewards)
        objective = rewards.mean() + self.config.ensemble.acceptance_weight * self.spread * accepted
        return {
            MONITOR: float(objective),
            "reward_held_out": float(rewards.mean()),
            "acceptance_held_out": float(accepted * len(rewards) / len(weighed.weight)),
            "tokens_per_cycle_held_out": tokens_per_cycle(answers),
        }

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        """Log what the head is worth on the held-out tasks."""
        self.log_dict(self.validate(), prog_bar=True, batch_size=1)

    def configure_optimizers(self) -> dict[str, Any]:
        return optimisation(self.head, self.config.training)


def seed_of(seed: int, number: int) -> int:
    """A seed for the roll-outs of a batch."""
    return random.Random(f"{seed} roll-outs {number}").getrandbits(62)


class UpdateNumbers(Dataset):
    """Steps by number: what a step is made of, the module knows."""

    def __getitem__(self, index: int) -> int:
        return index


class UpdateFeed(Batches):
    """The numbers of steps.

    Args:
        updates: steps on a batch of roll-outs.
        batches: that hold each task once.
    """

    def __init__(self, updates: int, batches: int):
        super().__init__()
        self.updates, self.batches = updates, batches

    @property
    def steps_per_epoch(self) -> int:
        return max(1, self.updates * self.batches)

    def loader(self, rank: int, first: int, last: int) -> DataLoader:
        return loader(UpdateNumbers(), first, last)
