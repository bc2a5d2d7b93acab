"""What can be wrong in how a decoder is asked to decode, found without any model: one line each, before work."""

from collections.abc import Iterable, Sequence
from typing import Any

from drafter.decode.costs import Costs
from drafter.decode.deciding import Weight
from drafter.decode.sampling import check_law as check_sampling
from drafter.decode.sampling import whole
from drafter.verification import Rule, make_rule, match, needs, shared_noise
from drafter.verification.base import require_fraction

AUTO = "auto"
NEUTRAL = {  # fields of a generation config that change a law, with the value that changes nothing
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
OTHERS = (  # those that change nothing by being absent
    "bad_words_ids",
    "begin_suppress_tokens",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "guidance_scale",
    "min_new_tokens",
    "sequence_bias",
    "suppress_tokens",
)


def check_decoder(
    longest: int,
    usual: int,
    rule: Rule | str | None = None,
    draft_length: int | str | None = None,
    tree_nodes: int | str | None = None,
    verifier_weight: Weight | None = None,
    costs: Costs | None = None,
) -> Rule | None:
    """Check a decoder's arguments; returns the rule, made if it was a name.

    Args:
        longest: tokens that the drafter proposes at most; 0 without a drafter.
        usual: tokens that it proposes unless another number is asked for.
    Raises:
        ValueError: an argument is out of range or missing, or two do not go together.
    """
    made = make_rule(rule) if isinstance(rule, str) else rule
    weighs = made is not None and "verifier_weight" in needs(made)
    if (verifier_weight is not None) != weighs:
        raise ValueError(
            f"verifier_weight={verifier_weight}: goes with the rule dynamic_ensemble, and with no other; it is a "
            "number in [0, 1], or a function of both models' hidden states"
        )
    if isinstance(verifier_weight, (int, float)):
        require_fraction("verifier_weight", verifier_weight)
    if draft_length not in (None, AUTO) and not _within(draft_length, 0, longest):
        raise ValueError(
            f"draft_length={draft_length}: the drafter proposes at most {longest}; choose 0 to {longest}, or auto"
        )
    if tree_nodes not in (None, AUTO) and not _within(tree_nodes, 1, None):
        raise ValueError(f"tree_nodes={tree_nodes}: must be >= 1, auto, or none for drafts in a row")
    if tree_nodes is not None:
        if draft_length == AUTO:
            raise ValueError(
                f"draft_length='auto', tree_nodes={tree_nodes}: choose one; a tree is as deep as it pays, give "
                "tree_nodes='auto' alone"
            )
        if draft_length == 0 or usual == 0:
            raise ValueError(f"tree_nodes={tree_nodes}: a tree needs a drafter that proposes at least one token")
        if made not in (None, match, shared_noise):
            raise ValueError(
                f"tree_nodes={tree_nodes}: a tree is walked by the verifier's own tokens; choose rule match or "
                "shared_noise, or leave it out"
            )
    if AUTO in (draft_length, tree_nodes) and usual:
        if costs is None:
            field = "draft_length" if draft_length == AUTO else "tree_nodes"
            raise ValueError(f"{field}='auto': needs costs; measure them by drafter.evaluation.parts.measure_costs")
        if len(costs.verify) <= usual:
            raise ValueError(
                f"costs: hold verify passes of 1 to {len(costs.verify)} tokens, drafts need up to {usual + 1}; "
                "measure wider ones"
            )
    return made


def check_generation(
    max_new_tokens: int = 1, batch_size: int = 1, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0
) -> None:
    """Raise a ValueError if an argument of `generate` is out of range."""
    check_sampling(temperature, top_p, top_k)
    for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if not _within(value, 1, None):
            raise ValueError(f"{name}={value}: must be a whole number >= 1")


def ignored_settings(generation: Any) -> dict[str, Any]:
    """What a model's generation config asks for that changes its law, and that decoding does not do."""
    asked = {name: getattr(generation, name, None) for name in (*NEUTRAL, *OTHERS)}
    return {name: value for name, value in asked.items() if value not in (None, NEUTRAL.get(name), [])}


def check_seed(seed: int | Sequence[int], prompts: int) -> int | list[int]:
    """One seed for all prompts, or one for each, as Python's integers.

    Raises:
        ValueError: it is neither.
    """
    if whole(seed) is not None or isinstance(seed, str) or not isinstance(seed, Iterable):
        return whole_seed(seed)
    each = [whole_seed(one) for one in seed]
    if len(each) != prompts:
        raise ValueError(f"seed: {len(each)} for {prompts} prompts; give one for each, or one for all")
    return each


def whole_seed(seed: Any) -> int:
    """A seed as torch takes one.

    Raises:
        ValueError: it is none.
    """
    number = whole(seed)
    if number is None or not -(1 << 63) <= number < 1 << 64:
        raise ValueError(f"seed={seed!r}: must be a whole number of at most 64 bits")
    return number


def _within(value: int | str | None, low: int, high: int | None) -> bool:
    number = whole(value)
    return number is not None and low <= number and (high is None or number <= high)
