"""Answers token by token: which were drafts that were kept, which the verifier's own, which had been right in vain."""

import html
from collections.abc import Callable
from typing import Any

from drafter.decode import Generation
from drafter.decode.text import Detokenizer
from drafter.evaluation.asking import SuiteRun
from drafter.evaluation.slots import Observed

ENDS = 3  # prompts shown from each end
LONGEST = 600  # characters of a prompt that are shown
WORDS = {
    "first": "the prefill's",
    "accepted": "a draft that was kept",
    "corrected": "the verifier's, in place of a wrong draft",
    "bonus": "the verifier's, behind drafts that were all kept",
}


def passages(answered: SuiteRun, tokenizer: Any) -> list[dict[str, Any]]:
    """The prompts with the fewest tokens per cycle, worst first, then those with the most, best first."""
    ran = [at for at, one in enumerate(answered.cycles.emitted) if one]
    rate = {at: sum(answered.cycles.emitted[at]) / len(answered.cycles.emitted[at]) for at in ran}
    order = sorted(ran, key=lambda at: (rate[at], at))
    worst = order[:ENDS]
    best = [at for at in reversed(order) if at not in worst][:ENDS]
    return [
        {"end": end, "tokens_per_cycle": rate[at], "source": answered.asked[at].case.source}
        | {
            "turn": answered.asked[at].turn,
            "prompt": answered.asked[at].case.turns[answered.asked[at].turn - 1][:LONGEST],
        }
        | {"pieces": pieces(answered, at, tokenizer)}
        for end, some in (("worst", worst), ("best", best))
        for at in some
    ]


def pieces(answered: SuiteRun, at: int, tokenizer: Any) -> list[dict[str, Any]]:
    """The tokens of one answer: text, kind, what the drafter had proposed in place of it, right in vain before."""
    answer, emitted, accepted = answered.answers[at], answered.cycles.emitted[at], answered.cycles.accepted[at]
    seen = answered.observed[at] if answered.observed else None
    length = len(answered.cycles.kept)
    detokenizer = Detokenizer(tokenizer)
    found: list[dict[str, Any]] = [{"text": detokenizer.push(token)} for token in answer.token_ids]
    found[-1]["text"] += detokenizer.flush()
    for piece, kind in zip(found, kinds(answer, emitted, accepted, length), strict=True):
        piece["kind"] = kind
    if seen is not None:
        _explain(found, emitted, accepted, length, seen, lambda token: tokenizer.decode([token]))
    return found


def kinds(answer: Generation, emitted: list[int], accepted: list[int], length: int) -> list[str]:
    """A word of `WORDS` for each token of an answer whose cycles drafted `length` tokens."""
    found = ["first"]
    for tokens, keep in zip(emitted, accepted, strict=True):
        found += ["accepted"] * keep + ["bonus" if keep == length else "corrected"] * (tokens - keep)
    return found[: len(answer.token_ids)]


def _explain(
    found: list[dict[str, Any]],
    emitted: list[int],
    accepted: list[int],
    length: int,
    seen: Observed,
    text_of: Callable[[int], str],
) -> None:
    """Put in what a correction was in place of, and which tokens an earlier cycle had drafted right behind an error."""
    at = 0
    for tokens, keep in zip(emitted, accepted, strict=True):
        if tokens > keep and found[at + tokens]["kind"] == "corrected":
            found[at + tokens]["proposed"] = text_of(int(seen.drafted[at, keep]))
        for slot in range(keep + 1, length):
            if bool(seen.hits[at, slot]):
                found[at + slot + 1]["wasted"] = True
        at += tokens


def element(passage: dict[str, Any], shown: bool) -> str:
    """A passage as HTML, shown or closed until it is asked for; all text escaped."""
    spans = []
    for piece in passage["pieces"]:
        told = WORDS[piece["kind"]]
        told += f": {piece['proposed']!r}" if "proposed" in piece else ""
        told += "; an earlier draft had it, behind a wrong one" if piece.get("wasted") else ""
        name = piece["kind"] + (" wasted" if piece.get("wasted") else "")
        spans.append(f'<span class="{name}" title="{html.escape(told)}">{html.escape(piece["text"])}</span>')
    named = f"{passage['end']}: {passage['tokens_per_cycle']:.2f} tokens per cycle, {passage['source']}"
    named += f", turn {passage['turn']}" if passage["turn"] > 1 else ""
    return (
        f"<details{' open' if shown else ''}><summary>{html.escape(named)}</summary>"
        f'<p class="tokens">{html.escape(passage["prompt"])}</p><p class="tokens">{"".join(spans)}</p></details>'
    )
