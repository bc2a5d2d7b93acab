"""The laws of the verification rules by enumeration: plain floats and loops, nothing taken from the library.

A world is a drafter and a verifier whose laws depend on all tokens before. A rule is a plan for one drafted path: the
probability that each prefix passes, whether the leading passes count or the last one, and the law of the next token
after each number of accepted drafts.
"""

import itertools
import math
import random
from dataclasses import dataclass

Law = list[float]
Path = tuple[int, ...]
Outcomes = dict[tuple[int, int], float]

LOSSLESS = ("match", "speculative_sampling", "block_verification", "shared_noise")
LOSSY: dict[str, dict[str, float]] = {
    "lenient": {"lenience": 0.4},
    "typical_acceptance": {"epsilon": 0.3, "delta": 0.7},
    "static_ensemble": {"verifier_weight": 0.6},
    "variation_budget": {"budget": 0.15},
    "dynamic_ensemble": {},
}
CASES: dict[str, dict[str, float]] = {**{name: {} for name in LOSSLESS}, **LOSSY}


@dataclass
class World:
    vocabulary: int
    slots: int
    verifier: dict[Path, Law]  # the law after every path of length 0..slots
    drafter: dict[Path, Law]  # the same for length 0..slots - 1
    weight: dict[Path, float]  # dynamic_ensemble's weight of the verifier after each path


def random_law(source: random.Random, vocabulary: int) -> Law:
    """A law that is smooth, peaked, truncated or one-hot."""
    power = source.choice((0.5, 1, 3))
    mass = [source.random() ** power for _ in range(vocabulary)]
    if source.random() < 0.3:
        for token in source.sample(range(vocabulary), source.randrange(1, vocabulary)):
            mass[token] = 0.0
    return [value / sum(mass) for value in mass]


def random_world(seed: int, vocabulary: int, slots: int, *, parallel: bool = False) -> World:
    """A world with `slots` drafts per cycle; a parallel drafter's laws know the slot, not the drafts before it."""
    source = random.Random(seed)
    paths = [path for length in range(slots + 1) for path in itertools.product(range(vocabulary), repeat=length)]
    verifier = {path: random_law(source, vocabulary) for path in paths}
    drafter = {path: random_law(source, vocabulary) for path in paths if len(path) < slots}
    for path in drafter:
        if parallel:
            drafter[path] = drafter[(0,) * len(path)]
        elif source.random() < 0.15:
            drafter[path] = list(verifier[path])
    weight = {path: source.choice((0.0, 1.0, source.random())) for path in drafter}
    return World(vocabulary, slots, verifier, drafter, weight)


def norm(mass: Law) -> Law:
    total = math.fsum(mass)
    return [value / total for value in mass]


def excess(verifier: Law, draft: Law, scale: float = 1.0) -> Law:
    return [max(0.0, scale * p - q) for p, q in zip(verifier, draft, strict=True)]


def correction(verifier: Law, draft: Law, scale: float = 1.0) -> Law:
    mass = excess(verifier, draft, scale)
    return norm(mass) if sum(mass) > 0 else norm(verifier)


def total_variation(verifier: Law, draft: Law) -> float:
    return math.fsum(abs(p - q) for p, q in zip(verifier, draft, strict=True)) / 2


def mix(weight: float, verifier: Law, draft: Law) -> Law:
    return [weight * p + (1 - weight) * q for p, q in zip(verifier, draft, strict=True)]


def typical_tokens(verifier: Law, epsilon: float, delta: float) -> list[bool]:
    entropy = -math.fsum(p * math.log(p) for p in verifier if p > 0)
    return [p > min(epsilon, delta * math.exp(-entropy)) for p in verifier]


def mixture_weight(rule: str, world: World, prefix: Path, **parameters: float) -> float:
    if rule == "static_ensemble":
        return parameters["verifier_weight"]
    if rule == "dynamic_ensemble":
        return world.weight[prefix]
    distance = total_variation(world.verifier[prefix], world.drafter[prefix])
    return 1 - min(1.0, parameters["budget"] / distance) if distance > 0 else 1.0


def stated_law(rule: str, world: World, prefix: Path, **parameters: float) -> Law:
    """The law of the token after this prefix that the rule's docstring states."""
    p = world.verifier[prefix]
    if rule in LOSSLESS or len(prefix) == world.slots:
        return p
    q = world.drafter[prefix]
    if rule == "lenient":
        kept = [min(x / parameters["lenience"], y) for x, y in zip(p, q, strict=True)]
        rest = correction(p, q)
    elif rule == "typical_acceptance":
        kept = [y * allowed for y, allowed in zip(q, typical_tokens(p, **parameters), strict=True)]
        rest = p
    else:
        return mix(mixture_weight(rule, world, prefix, **parameters), p, q)
    return [value + (1 - sum(kept)) * other for value, other in zip(kept, rest, strict=True)]


def plan(rule: str, world: World, path: Path, **parameters: float) -> tuple[list[float], bool, list[Law]]:
    """For drafts `path` of any length up to world.slots: pass probabilities, last pass counts, next laws."""
    length = len(path)
    verifier = [world.verifier[path[:slot]] for slot in range(length + 1)]
    draft = [world.drafter[path[:slot]] for slot in range(length)]
    ratio = [verifier[slot][path[slot]] / draft[slot][path[slot]] for slot in range(length)]
    corrections = [correction(p, q) for p, q in zip(verifier, draft, strict=False)] + [verifier[-1]]
    if rule == "block_verification":
        weights = [1.0]
        for value in ratio:
            weights.append(min(1.0, weights[-1] * value))
        chances = []
        for slot in range(1, length):
            mass = sum(excess(verifier[slot], draft[slot], weights[slot]))
            below = mass + 1 - weights[slot]
            chances.append(mass / below if below > 0 else 1.0)
        laws = [correction(verifier[slot], draft[slot], weights[slot]) for slot in range(length)] + [verifier[-1]]
        return chances + weights[length:] if length else [], True, laws
    if rule == "speculative_sampling":
        chances = [min(1.0, value) for value in ratio]
    elif rule == "lenient":
        chances = [min(1.0, value / parameters["lenience"]) for value in ratio]
    elif rule == "match":
        chances = [verifier[slot][path[slot]] for slot in range(length)]
        for slot in range(length):
            other = [0.0 if token == path[slot] else p for token, p in enumerate(verifier[slot])]
            corrections[slot] = norm(other) if sum(other) > 0 else verifier[slot]
    elif rule == "typical_acceptance":
        chances = [float(typical_tokens(verifier[slot], **parameters)[path[slot]]) for slot in range(length)]
        corrections = verifier
    else:
        weights = [mixture_weight(rule, world, path[:slot], **parameters) for slot in range(length)]
        chances = [min(1.0, 1 - w + w * value) for w, value in zip(weights, ratio, strict=True)]
    return chances, False, corrections


def outcomes(rule: str, world: World, path: Path, **parameters: float) -> Outcomes:
    """Probability of every (accepted, next token), given the drafts."""
    chances, last, laws = plan(rule, world, path, **parameters)
    result = {}
    for accepted in range(len(path) + 1):
        if last:
            passed = chances[accepted - 1] if accepted else 1.0
            reach = passed * math.prod(1 - chance for chance in chances[accepted:])
        else:
            stopped = 1 - chances[accepted] if accepted < len(path) else 1.0
            reach = math.prod(chances[:accepted]) * stopped
        for token, probability in enumerate(laws[accepted]):
            result[accepted, token] = reach * probability
    return result


def paths_drawn(world: World, length: int) -> dict[Path, float]:
    """Every path of drafts that has mass, with its probability."""
    drawn = {}
    for path in itertools.product(range(world.vocabulary), repeat=length):
        probability = math.prod(world.drafter[path[:slot]][path[slot]] for slot in range(length))
        if probability > 0:
            drawn[path] = probability
    return drawn


def emitted(rule: str, world: World, length: int, **parameters: float) -> dict[Path, float]:
    """Probability of every emitted run of tokens, of 1..length + 1 tokens."""
    result: dict[Path, float] = {}
    if rule == "shared_noise":
        follow_noise(world, length, (), 1.0, result)
        return result
    for path, drawn in paths_drawn(world, length).items():
        for (accepted, token), probability in outcomes(rule, world, path, **parameters).items():
            run = (*path[:accepted], token)
            result[run] = result.get(run, 0.0) + drawn * probability
    return result


def follow_noise(world: World, length: int, prefix: Path, mass: float, result: dict[Path, float]) -> None:
    """The runs of a drafter that maps noise to tokens by its own cumulated law: overlaps of the two laws' intervals."""
    p = world.verifier[prefix]
    for own in range(world.vocabulary):
        run = (*prefix, own)
        if len(prefix) == length:
            result[run] = result.get(run, 0.0) + mass * p[own]
            continue
        q = world.drafter[prefix]
        for draft in range(world.vocabulary):
            low = max(sum(p[:own]), sum(q[:draft]))
            overlap = min(sum(p[: own + 1]), sum(q[: draft + 1])) - low
            if overlap > 0 and own == draft:
                follow_noise(world, length, run, mass * overlap, result)
            elif overlap > 0:
                result[run] = result.get(run, 0.0) + mass * overlap


def joint(rule: str, world: World, **parameters: float) -> dict[Path, float]:
    """Law of slots + 1 tokens: what one cycle emits, continued with the stated law where it stopped early."""
    result: dict[Path, float] = {}
    for run, probability in emitted(rule, world, world.slots, **parameters).items():
        for rest in itertools.product(range(world.vocabulary), repeat=world.slots + 1 - len(run)):
            tokens = run + rest
            product = probability
            for slot in range(len(run), len(tokens)):
                product *= stated_law(rule, world, tokens[:slot], **parameters)[tokens[slot]]
            result[tokens] = result.get(tokens, 0.0) + product
    return result


def stated_joint(rule: str, world: World, **parameters: float) -> dict[Path, float]:
    """Law of slots + 1 tokens that the docstring states."""
    return {
        tokens: math.prod(
            stated_law(rule, world, tokens[:slot], **parameters)[tokens[slot]] for slot in range(len(tokens))
        )
        for tokens in itertools.product(range(world.vocabulary), repeat=world.slots + 1)
    }


def tokens_per_cycle(rule: str, world: World, **parameters: float) -> float:
    """Expected number of emitted tokens."""
    return sum(len(run) * probability for run, probability in emitted(rule, world, world.slots, **parameters).items())
