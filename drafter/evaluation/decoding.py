"""How prompts are decoded: the law of tokens, the seed, the rule."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from drafter.decode import Costs, Generation, SpeculativeDecoder
from drafter.models import BlockDiffusionDrafter
from drafter.verification import Rule, make_rule
from drafter.verifier import Verifier


@dataclass(frozen=True)
class Decoding:
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
