"""A suite shared by the processes of a launcher (torchrun): each asks every n-th case, and all then know all."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist

from drafter.evaluation.asking import SuiteRun
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.suites import Case
from drafter.machine.devices import choose_device
from drafter.machine.ranks import own_device

T = TypeVar("T")


@dataclass(frozen=True)
class Company:
    """This process's number among so many; one alone as it stands."""

    rank: int = 0
    count: int = 1

    @classmethod
    def meet(cls) -> "Company":
        """Those that the launcher started, once they have met; what they share is small, and on the CPU."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and not dist.is_initialized():
            dist.init_process_group("gloo")
        return cls(int(os.environ.get("RANK", "0")) if count > 1 else 0, count)

    @property
    def first(self) -> bool:
        """Whether it is this one that speaks and writes."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """The device of this process, where `auto` or `cuda` would give all of them the first."""
        return own_device("auto", choose_device(asked)) if self.count > 1 else asked

    def share(self, every: Sequence[T]) -> list[T]:
        """What this process takes: as long and as hard as the others', more or less."""
        return list(every)[self.rank :: self.count]

    def put_together(self, part: SuiteRun, cases: Sequence[Case]) -> SuiteRun:
        """The suite as all went through it, in the order in which one alone would have."""
        if self.count == 1:
            return part
        parts: list[SuiteRun] = [part] * self.count
        dist.all_gather_object(parts, part)
        place = {case.source: at for at, case in enumerate(cases)}
        every = [
            ((asked.turn, place[asked.case.source]), one, at) for one in parts for at, asked in enumerate(one.asked)
        ]
        slots = max(len(one.cycles.kept) for one in parts)
        whole = SuiteRun([], [], Cycles.none(slots))
        for _, one, at in sorted(every, key=lambda each: each[0]):
            whole.asked.append(one.asked[at])
            whole.answers.append(one.answers[at])
            whole.cycles.add(one.cycles.emitted[at], one.cycles.accepted[at])
            whole.observed += one.observed[at : at + 1]
        return whole
