"""A drafter's tokens per cycle on a few fixed prompts, by the code that trains it.

Training writes the number and the prompts into the export; `check` decodes the same prompts with what was exported, by
the code that serves it. A drafter that is served otherwise than it was trained accepts less, whatever the reason.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from drafter.decode import SpeculativeDecoder
from drafter.evaluation.walk import walk_along
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier

PROMPTS, NEW_TOKENS, LONGEST = 6, 48, 256


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        prompts: token ids.
        max_new_tokens: of each answer, greedy.
        tokens_per_cycle: tokens emitted by cycles over cycles, summed over prompts.
        cycles: how many there were.
    """

    prompts: list[list[int]]
    max_new_tokens: int
    tokens_per_cycle: float
    cycles: int

    def as_dict(self) -> dict:
        return asdict(self)


def probe(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    prompts: Sequence[list[int]],
    max_new_tokens: int = NEW_TOKENS,
) -> Probe:
    """Measure a drafter in training along the verifier's own greedy answers; both in float32.

    Args:
        prompts: the first few short ones are used.
    """
    used = [prompt for prompt in prompts if len(prompt) <= LONGEST][:PROMPTS] or [list(prompts[0][:LONGEST])]
    plain = SpeculativeDecoder(verifier).generate(used, max_new_tokens, batch_size=len(used))
    found = walk_along(plain, used, verifier, drafter)
    return Probe(used, max_new_tokens, found.tokens_per_cycle, found.count)
