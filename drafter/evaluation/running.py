"""A drafter on one suite: its prompts asked and answered, its cycles found, its slots looked at."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from drafter.evaluation.asking import SuiteRun, ask
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.decoding import Decoding
from drafter.evaluation.sharing import Company
from drafter.evaluation.slots import observe_all
from drafter.evaluation.suites import Case, Suite
from drafter.evaluation.walk import leading_of, walk
from drafter.models import BlockDiffusionDrafter
from drafter.models.base import Drafter
from drafter.verifier import Verifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class How:
    """How a drafter goes through suites.

    Attributes:
        law: of the tokens, at the suite's temperature.
        walks: cycles are those of the walk along the verifier's own greedy answers, and not the decoder's.
        observes: look at the slots, where answers are the verifier's own and the drafter drafts blocks.
        raw: prompts as they are, without the chat template.
    """

    law: Decoding
    length: int
    walks: bool = False
    observes: bool = False
    raw: bool = False
    batch_size: int = 16


def run_suite(
    suite: Suite,
    cases: Sequence[Case],
    verifier: Verifier,
    drafter: Drafter,
    how: How,
    before: SuiteRun | None = None,
    company: Company | None = None,
) -> SuiteRun:
    """Go through a suite.

    Args:
        before: of another drafter, which was asked the same.
        company: processes that share the suite; each returns the whole of it.
    Raises:
        ValueError: no prompt gave a cycle; or what `ask` raises.
    """
    company = company or Company()
    decoder = how.law.decoder(verifier, None if how.walks else drafter, None if how.walks else how.length)
    answer = partial(decoder, max_new_tokens=suite.max_new_tokens, batch_size=how.batch_size)
    thought = verifier.keep_reasoning
    if suite.thinking is not None:
        verifier.keep_reasoning = suite.thinking
    try:
        if before is None:
            asked, answers = ask(company.share(cases), verifier, answer, how.raw)
        else:
            asked = company.share(before.asked)
            answers = company.share(before.answers) if how.walks else answer([one.ids for one in asked])
    finally:
        verifier.keep_reasoning = thought
    observed = []
    if isinstance(drafter, BlockDiffusionDrafter) and (how.walks or (how.observes and how.law.verifiers_own)):
        observed = list(observe_all(verifier, drafter, [one.ids for one in asked], answers))
    if how.walks:
        cycles = walk((leading_of([(one.hits, one.valid)])[0] if one else [] for one in observed), how.length)
    else:
        cycles = Cycles.of(answers, how.length)
    found = company.put_together(SuiteRun(asked, answers, cycles, observed), cases)
    for number, one in enumerate(found.answers, 1):
        if not one.token_ids and company.first:
            log.warning("%s: prompt %d was left out: %s", suite.name, number, one.stop)
    if not any(found.cycles.emitted):
        raise ValueError(
            f"suites: no prompt of {suite.name} gave a cycle; raise max-new-tokens or choose another suite"
        )
    return found
