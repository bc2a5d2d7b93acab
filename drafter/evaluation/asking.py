"""A suite asked and answered, turn by turn: later turns follow the answers to those before them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drafter.decode import Generation
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.slots import Observed
from drafter.evaluation.suites import Case
from drafter.verifier import Verifier

Answer = Callable[[list[list[int]]], list[Generation]]
CONTEXTS = (128, 512, 2048, 8192)  # prompt tokens, between which figures are told apart


@dataclass(frozen=True)
class Asked:
    """One turn of a case, as the verifier is asked it: token ids, the turns before it and their answers among them."""

    case: Case
    turn: int
    ids: list[int]

    def about(self) -> dict[str, Any]:
        """What slices and comparisons tell prompts apart by."""
        about = {"source": self.case.source, "turn": self.turn, "context_tokens": len(self.ids)}
        return about | {"category": self.case.category, "language": self.case.language}


@dataclass
class SuiteRun:
    """A suite as one drafter went through it.

    Attributes:
        cycles: of each prompt, none of one that could not run.
        observed: what the slots of each were, where that was looked at.
    """

    asked: list[Asked]
    answers: list[Generation]
    cycles: Cycles
    observed: list[Observed | None] = field(default_factory=list)

    def prompts(self) -> list[dict[str, Any]]:
        """Prompt by prompt, what a CSV file and a comparison need."""
        found = []
        for asked, answer, emitted, accepted in zip(
            self.asked, self.answers, self.cycles.emitted, self.cycles.accepted, strict=True
        ):
            counts = {"emitted": sum(emitted), "cycles": len(emitted), "accepted": sum(accepted)}
            found.append(asked.about() | counts | {"asked": digest(asked.ids), "answered": digest(answer.token_ids)})
        return found


def ask(cases: Sequence[Case], verifier: Verifier, answer: Answer, raw: bool) -> tuple[list[Asked], list[Generation]]:
    """Ask every turn of every case, first turns first.

    Args:
        raw: prompts as they are, without the chat template.
    Raises:
        ValueError: the verifier has no chat template, or a raw case has a second turn.
    """
    said: list[list[dict[str, str]]] = [[] for _ in cases]
    asked, answers = [], []
    for turn in range(max((len(case.turns) for case in cases), default=0)):
        if raw and turn:
            raise ValueError("raw: a second turn needs the chat template; leave --raw out")
        going = [at for at, case in enumerate(cases) if turn < len(case.turns) and len(said[at]) == 2 * turn]
        for at in going:
            said[at].append({"role": "user", "content": cases[at].turns[turn]})
        encode = verifier.tokenizer.encode
        now = [
            Asked(cases[at], 1 + turn, encode(cases[at].turns[0]) if raw else verifier.chat_ids(said[at]))
            for at in going
        ]
        made = answer([one.ids for one in now])
        for at, one in zip(going, made, strict=True):
            text = verifier.tokenizer.decode(one.token_ids, skip_special_tokens=True)
            if text.strip():  # nothing can follow no answer
                said[at].append({"role": "assistant", "content": text})
        asked += now
        answers += made
    return asked, answers


def slices(answered: SuiteRun) -> dict[str, dict[str, Any]]:
    """Figures by category, language, turn and length of the context, where a suite has more than one of each."""
    names: dict[str, list[str]] = {"category": [], "language": [], "turn": [], "context": []}
    for asked in answered.asked:
        edge = next((edge for edge in CONTEXTS if len(asked.ids) <= edge), None)
        names["category"].append(asked.case.category)
        names["language"].append(asked.case.language)
        names["turn"].append(str(asked.turn))
        names["context"].append(f"above {CONTEXTS[-1]} tokens" if edge is None else f"up to {edge} tokens")
    cycles = answered.cycles
    found: dict[str, dict[str, Any]] = {}
    for kind, values in names.items():
        if len(set(values)) < 2:
            continue
        found[kind] = {}
        for value in dict.fromkeys(values):
            own = Cycles()
            for at, other in enumerate(values):
                if other == value:
                    own.add(cycles.emitted[at], cycles.accepted[at])
            one = own.figures()
            kept = ("prompts", "tokens_per_cycle", "low", "high", "cycles")
            found[kind][value or "none named"] = {name: one[name] for name in kept}
    return found


def digest(ids: Sequence[int]) -> str:
    """A short hash of token ids."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:16]
