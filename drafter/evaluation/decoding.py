"""How prompts are decoded: the law of tokens, the seed, the rule."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from drafter.decode import Costs, Generation, SpeculativeDecoder
from drafter.models.base import Drafter
from drafter.models.ensemble_head import EnsembleHead
from drafter.verification import LOSSLESS, Rule, make_rule
from drafter.verifier import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn and which of them a rule keeps; greedy as it stands."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    rule: str | None = None

    def parts(self) -> tuple[str, dict[str, float | str]]:
        """The rule's name and its parameters; the `head` of `dynamic_ensemble` is a directory, all others are numbers.

        Raises:
            ValueError: the rule is not written as NAME or NAME:KEY=VALUE,...
        """
        name, _, rest = (self.rule or "").partition(":")
        try:
            said = dict(one.split("=") for one in rest.split(",") if one)
            return name, {key: value if key == "head" else float(value) for key, value in said.items()}
        except ValueError:
            raise ValueError(f"rule={self.rule!r}: write it as NAME:KEY=NUMBER,KEY=NUMBER") from None

    @property
    def verifiers_own(self) -> bool:
        """Whether answers are the verifier's greedy ones, whatever is drafted."""
        return self.temperature == 0 and (self.rule is None or self.parts()[0] in LOSSLESS)

    def make_rule(self) -> Rule | None:
        """The rule `NAME` or `NAME:KEY=VALUE,...`; None leaves the choice to the decoder.

        Raises:
            ValueError: there is no such rule, or it has no such parameters.
        """
        if self.rule is None:
            return None
        name, parameters = self.parts()
        if name == "dynamic_ensemble" and "head" not in parameters:
            raise ValueError(f"rule={self.rule!r}: name the head that weighs, dynamic_ensemble:head=DIR")
        if name == "dynamic_ensemble":
            del parameters["head"]
        return make_rule(name, **parameters)

    def weight(self, verifier: Verifier | None = None) -> EnsembleHead | None:
        """The head of `dynamic_ensemble:head=DIR`, on the verifier's device; None for other rules.

        Raises:
            ValueError: there is none in that directory.
        """
        name, parameters = self.parts()
        if name != "dynamic_ensemble":
            return None
        head = EnsembleHead.load(str(parameters.get("head", "")))
        if verifier is None:
            return head
        if head.config.verifier and not verifier.is_of(head.config.verifier):
            log.warning("%s: its head was trained beside another verifier; heads do not transfer", self.rule)
        return head.to(verifier.device)

    def decoder(
        self,
        verifier: Verifier,
        drafter: Drafter | None,
        draft_length: int | str | None,
        tree_nodes: int | str | None = None,
        costs: Costs | None = None,
    ) -> Callable[..., list[Generation]]:
        """What decodes prompts; further arguments are those of `SpeculativeDecoder.generate`."""
        rule, weight = self.make_rule(), self.weight(verifier)
        decoder = SpeculativeDecoder(verifier, drafter, rule, draft_length, tree_nodes, weight, costs)
        return partial(
            decoder.generate, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, seed=self.seed
        )
