"""Tokens per cycle as a vLLM server counts them: its own counters before and behind some prompts."""

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from drafter.engine.client import Client, Failure
from drafter.engine.parallel import in_parallel

NAMES = "drafts|accepted_tokens|accepted_tokens_per_pos"
COUNTER = re.compile(rf"^vllm:spec_decode_num_({NAMES})(?:_total)?(?:\{{(.*)\}})? (\S+)$", re.MULTILINE)
POSITION = re.compile(r'position="(\d+)"')


@dataclass(frozen=True)
class Served:
    """What a server counted of drafts, all its requests and engines together.

    Args:
        cycles: passes in which the verifier checked a draft.
        accepted: draft tokens kept, of all slots; a cycle that the answer's end cuts counts what it would have kept.
        accepted_at: draft tokens kept at each slot.
    """

    cycles: int
    accepted: int
    accepted_at: tuple[int, ...]

    @property
    def tokens_per_cycle(self) -> float:
        """What is kept, and the verifier's own token."""
        return 1 + self.accepted / self.cycles if self.cycles else float("nan")

    def since(self, before: "Served") -> "Served":
        """What came behind an earlier count."""
        slots = range(len(self.accepted_at))
        earlier = [*before.accepted_at, *[0] * len(self.accepted_at)]
        at = tuple(self.accepted_at[slot] - earlier[slot] for slot in slots)
        return Served(self.cycles - before.cycles, self.accepted - before.accepted, at)


def read_counters(text: str) -> Served:
    """Counts out of a server's `/metrics`.

    Raises:
        ValueError: it counts no drafts: it decodes plainly, or is another engine.
    """
    found: dict[str, float] = {}
    slots: dict[int, float] = {}
    for name, labels, value in COUNTER.findall(text):
        slot = POSITION.search(labels)
        if slot:
            slots[int(slot[1])] = slots.get(int(slot[1]), 0) + float(value)
        else:
            found[name] = found.get(name, 0) + float(value)
    if not {"drafts", "accepted_tokens"} <= found.keys():
        raise ValueError("engine: it counts no drafts; start vLLM with the drafter, as `drafter check` says")
    at = tuple(int(slots[slot]) for slot in sorted(slots))
    return Served(int(found["drafts"]), int(found["accepted_tokens"]), at)


def served_acceptance(
    client: Client, model: str, prompts: Sequence[Sequence[int]], max_new_tokens: int, concurrency: int
) -> Served:
    """What a server counts while it answers prompts, given as token ids, greedily; nobody else may ask it meanwhile.

    Raises:
        ValueError: it counts no drafts, or a prompt has no answer.
    """

    def ask(prompt: Sequence[int]) -> None:
        body = {"model": model, "prompt": list(prompt), "max_tokens": max_new_tokens, "temperature": 0.0}
        client.post("completions", body, lambda reply: None)

    before = read_counters(client.metrics())
    with closing(in_parallel(ask, prompts, concurrency, client.abort)) as answered:
        for prompt, found in answered:
            if isinstance(found, Failure):
                raise ValueError(f"engine={client.url!r}: a prompt of {len(prompt)} tokens has no answer ({found})")
    return read_counters(client.metrics()).since(before)
