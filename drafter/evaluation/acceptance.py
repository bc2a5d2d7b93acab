"""What a drafter is worth on prompts it has never seen: its cycles, by the real decoder or by the walk."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from drafter.decode import Costs, Generation, SpeculativeDecoder
from drafter.evaluation.probe import leading_along
from drafter.evaluation.walk import Walk, walk
from drafter.models import BlockDiffusionDrafter
from drafter.verification import Rule, make_rule
from drafter.verifier import Verifier


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and which of them a rule keeps; greedy as it stands."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    rule: str | None = None

    def make_rule(self) -> Rule | None:
        """The rule `NAME` or `NAME:KEY=VALUE,...`; None leaves the choice to the decoder.

        Raises:
            ValueError: there is no such rule, or it has no such parameters.
        """
        if self.rule is None:
            return None
        name, _, rest = self.rule.partition(":")
        try:
            parameters = {key: float(value) for key, value in (one.split("=") for one in rest.split(",") if one)}
        except ValueError:
            raise ValueError(f"rule={self.rule!r}: write it as NAME:KEY=NUMBER,KEY=NUMBER") from None
        return make_rule(name, **parameters)

    def decoder(
        self,
        verifier: Verifier,
        drafter: BlockDiffusionDrafter | None,
        draft_length: int | str | None,
        tree_nodes: int | str | None = None,
        costs: Costs | None = None,
    ) -> Callable[..., list[Generation]]:
        """What decodes prompts; further arguments are those of `SpeculativeDecoder.generate`."""
        decoder = SpeculativeDecoder(
            verifier, drafter, self.make_rule(), draft_length=draft_length, tree_nodes=tree_nodes, costs=costs
        )
        return partial(
            decoder.generate, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=self.seed
        )


def cycles_of(generations: Sequence[Generation], draft_length: int) -> Walk:
    """The cycles of decoded answers, a row per prompt; a prompt that could not run is a row without cycles."""
    found = Walk(reached=[0] * draft_length, kept=[0] * draft_length)
    for one in generations:
        found.add(one.emitted, one.accepted)
    return found


def by_walk(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    prompts: Sequence[list[int]],
    answers: Sequence[Generation],
    draft_length: int,
) -> Walk:
    """Cycles along the verifier's own greedy `answers`: those of the decoder, without decoding again."""
    return walk(leading_along(answers, prompts, verifier, drafter), draft_length)


def counts(*walks: Walk) -> list[dict[str, Tensor]]:
    """Tokens, cycles and accepted drafts of walks along the same prompts, [1, prompts] each, for paired comparison.

    A prompt without a cycle in any of them is left out of all.
    """
    used = [i for i in range(len(walks[0].emitted)) if all(one.emitted[i] for one in walks)]

    def per_prompt(of: list[list[int]], count: Callable[[list[int]], int]) -> Tensor:
        return torch.tensor([[count(of[i]) for i in used]], dtype=torch.float64)

    return [
        {
            "emitted": per_prompt(one.emitted, sum),
            "cycles": per_prompt(one.emitted, len),
            "accepted": per_prompt(one.accepted, sum),
        }
        for one in walks
    ]


def figures(found: Walk) -> dict[str, Any]:
    """What a report says of a suite; `export --evaluation` takes it for the model card."""
    low, high = found.interval()
    return {
        "prompts": sum(map(bool, found.emitted)),
        "tokens_per_cycle": found.tokens_per_cycle,
        "low": low,
        "high": high,
        "accepted_per_cycle": found.accepted_per_cycle,
        "cycles": sum(map(len, found.emitted)),
        "accepted_when_reached": [None if math.isnan(share) else share for share in found.acceptance],
        "kept_share": found.kept_share,
    }


def table(suites: dict[str, dict[str, Any]]) -> str:
    """One line per suite."""
    width = max(len("suite"), *map(len, suites))
    lines = [f"{'suite':<{width}}{'prompts':>9}{'tokens/cycle':>14}{'95 % interval':>17}{'accepted':>10}  when reached"]
    for name, one in suites.items():
        interval = f"{one['low']:.3f} to {one['high']:.3f}"
        slots = " ".join("-" if share is None else f"{share:.2f}" for share in one["accepted_when_reached"])
        lines.append(
            f"{name:<{width}}{one['prompts']:>9}{one['tokens_per_cycle']:>14.3f}{interval:>17}"
            f"{one['accepted_per_cycle']:>10.3f}  {slots}"
        )
    return "\n".join(lines)
