"""Prompts that the chat verifier writes itself (Magpie, arXiv:2406.08464): no data set needed.

Sampled after its user header, the model writes what a user would ask.
"""

import re
from collections.abc import Callable

from drafter.data.conversations import Prompt
from drafter.decode import SpeculativeDecoder
from drafter.verifier import Verifier
from drafter.verifier.chat import user_header

SIMILAR = 0.6
LONGEST = 64


def self_prompts(
    verifier: Verifier,
    count: int,
    seed: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Prompt]:
    """Sample `count` user turns; empty, cut, repeated and nearly repeated ones are dropped and drawn anew.

    Returns:
        prompts of kind `chat`, each its own source document.
    Raises:
        ValueError: the template can't be cut open at the user's turn, or the verifier keeps repeating itself.
    """
    header = user_header(verifier.tokenizer)
    decoder = SpeculativeDecoder(verifier)
    kept: list[str] = []
    words: list[frozenset[str]] = []
    for attempt in range(20):
        missing = count - len(kept)
        if missing <= 0:
            break
        answers = decoder.generate(
            [header] * (missing + missing // 3 + 1),
            max_new_tokens=LONGEST,
            temperature=1.0,
            top_p=0.95,
            seed=seed + attempt,
            batch_size=batch_size,
        )
        for answer in answers:
            text = verifier.tokenizer.decode(answer.token_ids, skip_special_tokens=True).strip()
            new = frozenset(re.findall(r"\w+", text.lower()))
            if answer.stop == "stop" and len(new) >= 3 and not any(_alike(new, old) for old in words):
                kept.append(text)
                words.append(new)
        on_progress(min(len(kept), count), count)
    if len(kept) < count:
        raise ValueError(
            f"data.sources: self_prompting: count={count}: only {len(kept)} different ones were written; lower it"
        )
    return [{"source": f"chat/{number}", "kind": "chat", "prompt": text} for number, text in enumerate(kept[:count])]


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return len(one & other) > SIMILAR * len(one | other)
