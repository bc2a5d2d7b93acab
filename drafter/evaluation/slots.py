"""What the slots of blocks at every position of an answer say beside hits: how sure, how far off, how likely."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from drafter.data.rows import Row, pad
from drafter.decode import Generation
from drafter.evaluation.walk import blocks_along
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import Verifier
from drafter.verifier.output import OutputHead

LIKELIEST = 32  # tokens of each slot that are kept: as many as the widest tree asks for
LAWS_PER_PASS = 32  # few enough that a pass over them stays in the caches


@dataclass(frozen=True)
class Observed:
    """The slots of blocks at every anchor of one answer, on the CPU; A anchors, G slots, R likeliest tokens.

    Attributes:
        hits, valid: as of `slot_hits`, [A, G].
        labels, drafted: the answer's token, and the drafter's likeliest, [A, G].
        log_label: log-probability of the label to the drafter, [A, G]; -inf where it may not propose it.
        rank: how many tokens the drafter holds likelier than the label, [A, G].
        confidence, margin: its highest probability, and how far that lies above the second, [A, G].
        entropy, verifier_entropy: of both laws, in nats, [A, G].
        scores, tokens: log-probabilities and ids of the likeliest tokens, descending, [A, G, R].
    """

    hits: Tensor
    valid: Tensor
    labels: Tensor
    drafted: Tensor
    log_label: Tensor
    rank: Tensor
    confidence: Tensor
    margin: Tensor
    entropy: Tensor
    verifier_entropy: Tensor
    scores: Tensor
    tokens: Tensor

    @classmethod
    def together(cls, parts: Sequence["Observed"]) -> "Observed":
        """All blocks of some answers, or of some ranks."""
        return cls(*(torch.cat([getattr(one, each.name) for one in parts]) for each in fields(cls)))


def observe_all(
    verifier: Verifier,
    drafter: BlockDiffusionDrafter,
    prompts: Sequence[list[int]],
    answers: Sequence[Generation],
) -> Iterator[Observed | None]:
    """`observe` each answer; None of one without a token behind its first."""
    for prompt, answer in zip(prompts, answers, strict=True):
        long = len(answer.token_ids) > 1
        yield observe(verifier, drafter, prompt, answer.token_ids) if long else None


@torch.no_grad()
def observe(verifier: Verifier, drafter: BlockDiffusionDrafter, prompt: list[int], answer: list[int]) -> Observed:
    """Draft behind every token of a known answer, and look at the law of every slot."""
    rows = pad([Row.of(prompt, answer)]).to(verifier.device)
    read = verifier.states(rows.ids, drafter.tap_layers).clone()  # [1, S, T*D + D]
    taps, final = read.split([read.shape[-1] - verifier.config.hidden_size, verifier.config.hidden_size], dim=-1)
    own = final[0, len(prompt) :]  # behind each token of the answer
    doubt = torch.cat([_entropy(verifier.logits(some)) for some in own.split(LAWS_PER_PASS)])  # [T]
    vocabulary, head = drafter.vocabulary, verifier.output.rows(drafter.vocabulary).to(torch.float32)
    parts = []
    for anchors, used, hidden, labels, valid in blocks_along(drafter, verifier, rows, taps):
        seen = _look(hidden[0].flatten(0, 1), labels[0].flatten(), head, vocabulary)
        count, slots = labels.shape[1:]
        before = anchors[0, :, None] - len(prompt) + torch.arange(slots, device=anchors.device)  # [A, G] what is known
        shaped = {name: value.unflatten(0, (count, slots)) for name, value in seen.items()}
        shaped |= {
            "valid": valid[0],
            "labels": labels[0],
            "hits": (shaped["drafted"] == labels[0]) & valid[0],
            "verifier_entropy": doubt[before.clamp(max=len(doubt) - 1)],
        }
        parts.append(Observed(**{name: value[used[0]].cpu() for name, value in shaped.items()}))
    return Observed.together(parts)


def _look(hidden: Tensor, labels: Tensor, head: OutputHead, vocabulary: Tensor | None) -> dict[str, Tensor]:
    """What the laws of slots say, by name, [N] each; their likeliest tokens [N, R]."""
    place = None  # of each token of the verifier among what may be proposed; -1: it is none of these
    if vocabulary is not None:
        place = labels.new_full((int(max(vocabulary.max(), labels.max())) + 1,), -1)
        place[vocabulary] = torch.arange(len(vocabulary), device=labels.device)
    found: dict[str, list[Tensor]] = {}
    for states, own in zip(hidden.split(LAWS_PER_PASS), labels.split(LAWS_PER_PASS), strict=True):
        logits = head(states)  # [N, V']
        scores = logits.float().log_softmax(-1)
        where = own if place is None else place[own]  # [N]
        label = scores.gather(1, where.clamp(min=0)[:, None])[:, 0].where(where >= 0, -torch.inf)
        best = scores.topk(min(LIKELIEST, scores.shape[-1]), dim=-1)
        chosen, two = logits.argmax(-1), best.values[:, :2].exp()
        seen = {
            "drafted": chosen if vocabulary is None else vocabulary[chosen],
            "log_label": label,
            "rank": (scores > label[:, None]).sum(-1),
            "confidence": two[:, 0],
            "margin": two[:, 0] - two[:, -1] if two.shape[1] > 1 else two[:, 0],
            "entropy": _entropy(scores),
            "scores": best.values,
            "tokens": best.indices if vocabulary is None else vocabulary[best.indices],
        }
        for name, value in seen.items():
            found.setdefault(name, []).append(value)
    return {name: torch.cat(values) for name, values in found.items()}


def _entropy(logits: Tensor) -> Tensor:
    """Nats of the law of logits [..., V]: log sum exp z - E z, the former by way of the likeliest token."""
    logits = logits.float()
    law = logits.softmax(-1)
    return logits.amax(-1) - law.amax(-1).log() - torch.linalg.vecdot(law, logits)
