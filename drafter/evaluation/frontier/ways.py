"""Ways of decoding that are compared: exact ones, relaxed ones, and the controls that relaxed ones must beat."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drafter.decode import Generation
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.witness import Distances, WatchedDecoder
from drafter.models.base import Drafter
from drafter.models.causal import CausalDrafter
from drafter.verification.laws import variation
from drafter.verifier import Verifier

EXACT, RELAXED, CONTROL = "exact", "relaxed", "control"
STATIC = "static_ensemble"


@dataclass(frozen=True)
class Way:
    """One way of decoding.

    Args:
        name: in tables and pictures.
        family: `exact`, `relaxed` or `control`.
        rule: as `NAME:KEY=VALUE`; empty where nothing is drafted.
        top_p: of both models' laws; below 1 the verifier itself is truncated.
        writer: whose tokens are emitted: the `pair`'s, the `verifier`'s alone, or the `drafter`'s alone.
    """

    name: str
    family: str
    rule: str = ""
    top_p: float = 1.0
    writer: str = "pair"

    @property
    def static(self) -> bool:
        """Whether it is a static ensemble; speculative sampling is the strict end of their line."""
        return self.rule.startswith(STATIC) or (self.rule == "speculative_sampling" and self.family == EXACT)

    @property
    def head(self) -> str:
        """The directory of the head that weighs; empty where none does."""
        return self.rule.partition("head=")[2]

    def decoding(self, temperature: float) -> Decoding:
        return Decoding(temperature, self.top_p, rule=self.rule or None)

    def decoder(self, verifier: Verifier, drafter: Drafter, length: int | None, temperature: float) -> Any:
        """What decodes prompts by (prompts, max_new_tokens, seed=, batch_size=)."""
        how = self.decoding(temperature)
        if self.writer != "pair":
            return Decoding(temperature, self.top_p).decoder(self.alone(verifier, drafter), None, None)
        return how.decoder(verifier, drafter, length)

    def alone(self, verifier: Verifier, drafter: Drafter) -> Verifier:
        """The model that writes alone."""
        if self.writer == "verifier":
            return verifier
        if not isinstance(drafter, CausalDrafter):
            raise ValueError(f"way={self.name!r}: a {type(drafter).__name__} writes nothing alone; leave it out")
        return drafter.model

    def watched(
        self,
        verifier: Verifier,
        drafter: Drafter,
        length: int | None,
        temperature: float,
        prompts: list[list[int]],
        max_new_tokens: int,
        seed: int,
        batch_size: int,
    ) -> tuple[list[Generation], list[float]]:
        """Answers, and for each the sum over its tokens of the distance between its law and the verifier's.

        Only laws at the drafted slots are looked at; of what one model writes alone, `measuring` looks at all.
        """
        how = self.decoding(temperature)
        if self.writer != "pair":
            decode = replace(how, seed=seed).decoder(self.alone(verifier, drafter), None, None)
            return decode(prompts, max_new_tokens, batch_size=batch_size), [0.0] * len(prompts)
        name, parameters = how.parts()
        weight, rule = how.weight(verifier), how.make_rule()
        assert rule is not None
        numbers = {key: value for key, value in parameters.items() if isinstance(value, float)}

        def distance(p: Any, q: Any, **more: Any) -> Any:
            return variation(name, p, q, **{**numbers, **more})

        watching = Distances(rule, distance, len(prompts))
        decoder = WatchedDecoder(verifier, drafter, watching, draft_length=length, verifier_weight=weight)
        answers = decoder.generate(prompts, max_new_tokens, temperature, self.top_p, seed=seed, batch_size=batch_size)
        return answers, watching.sums([len(one.token_ids) for one in answers])


def usual_ways(drafter: Drafter, heads: dict[str, str] | None = None) -> list[Way]:
    """Every rule at several strengths, and the controls: the verifier truncated, the drafter alone.

    Args:
        heads: name -> directory, of dynamic ensembles.
    """
    ways = [
        Way("verifier alone", EXACT, writer="verifier"),
        Way("speculative sampling", EXACT, "speculative_sampling"),
        Way("block verification", EXACT, "block_verification"),
        *(Way(f"lenient {value}", RELAXED, f"lenient:lenience={value}") for value in (0.5, 0.2)),
        Way("typical", RELAXED, "typical_acceptance"),
        *(Way(f"static {value}", RELAXED, f"{STATIC}:verifier_weight={value}") for value in (0.75, 0.5, 0.25, 0.0)),
        *(Way(f"budget {value}", RELAXED, f"variation_budget:budget={value}") for value in (0.1, 0.3)),
        *(Way(f"dynamic {name}", RELAXED, f"dynamic_ensemble:head={path}") for name, path in (heads or {}).items()),
        *(Way(f"verifier, top-p {value}", CONTROL, "speculative_sampling", value) for value in (0.9, 0.7)),
    ]
    if isinstance(drafter, CausalDrafter):
        ways.append(Way("drafter alone", CONTROL, writer="drafter"))
    return ways


def chosen(ways: Sequence[Way], names: Collection[str]) -> list[Way]:
    """The named ones, with the static ensembles and the heads, which are always among them.

    Raises:
        ValueError: none has such a name.
    """
    known = [way.name for way in ways if not way.static and not way.head]
    for name in names:
        if name not in known:
            raise ValueError(
                f"ways={name!r}: choose of {', '.join(known)}; static ensembles and heads are always there"
            )
    return [way for way in ways if way.name in names or way.static or way.head]
