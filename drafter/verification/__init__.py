"""Rules that decide which drafted tokens are kept: pure functions of probabilities, no model, no cache.

    rule(draft_ids [B, G], draft_probs [B, G, V], verifier_probs [B, G + 1, V], generator, *, draft_length=None)
        -> Verification(accepted [B], next_token [B])

Slot i of draft_probs and of verifier_probs are the laws of the token at draft_ids[:, i] given the drafts before it,
after temperature, top-k and top-p; the last of verifier_probs is the law of the bonus token. One-hot verifier laws are
greedy decoding. Rows that drafted fewer than G tokens say how many in `draft_length` [B]; the ids in their other slots
may be any valid ids, and their bonus law is verifier_probs[b, draft_length[b]].

A rule that needs more says so by a keyword, which the decoder reads: `noise` [B, G + 1], `verifier_weight` [B, G], and
`greedy` for a form of its own at temperature 0, which takes the laws as they are at temperature 1.

Random numbers come by `base.uniforms` or `sample` from the generator: torch's, or `Streams`, one stream for each row.
"""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from drafter.verification.base import Rule, Verification, sample
from drafter.verification.block import block_verification
from drafter.verification.ensemble import dynamic_ensemble, static_ensemble
from drafter.verification.lenient import lenient
from drafter.verification.match import match
from drafter.verification.shared_noise import shared_noise
from drafter.verification.speculative import speculative_sampling
from drafter.verification.typical import typical_acceptance
from drafter.verification.variation_budget import variation_budget

# Rules as they are; dynamic_ensemble is called with verifier_weight=, shared_noise with noise=.
RULES: dict[str, Rule] = {
    "match": match,
    "speculative_sampling": speculative_sampling,
    "block_verification": block_verification,
    "shared_noise": shared_noise,
    "dynamic_ensemble": dynamic_ensemble,
}
# Rules with parameters: called with them, each makes a rule.
RULE_MAKERS: dict[str, Callable[..., Rule]] = {
    "lenient": lenient,
    "typical_acceptance": typical_acceptance,
    "static_ensemble": static_ensemble,
    "variation_budget": variation_budget,
}
# Rules whose output has exactly the verifier's law.
LOSSLESS = frozenset(("match", "speculative_sampling", "block_verification", "shared_noise"))


def make_rule(name: str, **parameters: Any) -> Rule:
    """The rule of that name, made with its parameters where it has some: make_rule("lenient", lenience=0.5).

    Raises:
        ValueError: no rule has that name, or the parameters are not the rule's.
    """
    if name not in RULES and name not in RULE_MAKERS:
        known = [*RULES, *RULE_MAKERS]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
        raise ValueError(f"rule={name!r}: no such rule, did you mean {nearest!r}? (known: {', '.join(known)})")
    if name in RULES:
        if parameters:
            raise ValueError(f"rule={name!r}: takes no parameters, remove {', '.join(parameters)}")
        return RULES[name]
    try:
        return RULE_MAKERS[name](**parameters)
    except TypeError as error:
        raise ValueError(f"rule={name!r}: {error}") from None


def needs(rule: Rule) -> frozenset[str]:
    """Names of what a rule can't be called without besides the drafts, both models' laws and the generator."""
    named = inspect.signature(rule).parameters.values()
    return frozenset(one.name for one in named if one.kind is one.KEYWORD_ONLY and one.default is one.empty)


def has_greedy_form(rule: Rule) -> bool:
    """Whether the rule has a form of its own at temperature 0."""
    return "greedy" in inspect.signature(rule).parameters


def is_lossless(rule: Rule) -> bool:
    """Whether the rule is one whose output has exactly the verifier's law."""
    return any(rule is RULES[name] for name in LOSSLESS)


__all__ = [
    "LOSSLESS",
    "RULES",
    "RULE_MAKERS",
    "Rule",
    "Verification",
    "block_verification",
    "dynamic_ensemble",
    "has_greedy_form",
    "is_lossless",
    "lenient",
    "make_rule",
    "match",
    "needs",
    "sample",
    "shared_noise",
    "speculative_sampling",
    "static_ensemble",
    "typical_acceptance",
    "variation_budget",
]
