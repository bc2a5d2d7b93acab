"""The objectives as their definitions read: one slot at a time, float64, nothing shared with `losses`.

A block is a list of slots; a slot is None where it is invalid. Every function returns a 0-d float64 tensor that
autograd can differentiate in the hidden states the blocks were made from.
"""

import math
from dataclasses import dataclass

import torch


@dataclass
class Slot:
    nll: torch.Tensor
    hit: bool
    drafter: torch.Tensor | None = None  # [V] the laws that divergences compare, at their temperature
    verifier: torch.Tensor | None = None


def log_softmax(logits):
    top = max(logits.tolist())
    return logits - (top + torch.log(sum(torch.exp(one - top) for one in logits)))


def make_blocks(hidden, head, labels, valid, verifier_hidden=None, verifier_head=None, temperature=1.0):
    """Blocks of a [B, A, G, D] batch, in order."""
    blocks = []
    for row in range(hidden.shape[0]):
        for anchor in range(hidden.shape[1]):
            block = []
            for slot in range(hidden.shape[2]):
                if not valid[row, anchor, slot]:
                    block.append(None)
                    continue
                label = int(labels[row, anchor, slot])
                logits = head.double() @ hidden[row, anchor, slot].double()
                log_law = log_softmax(logits)
                best = logits.tolist().index(max(logits.tolist()))
                block.append(Slot(-log_law[label], best == label))
                if verifier_hidden is not None:
                    verifier_logits = verifier_head.double() @ verifier_hidden[row, anchor, slot].double()
                    block[-1].drafter = torch.exp(log_softmax(logits / temperature))
                    block[-1].verifier = torch.exp(log_softmax(verifier_logits / temperature))
            blocks.append(block)
    return blocks


def decay(index, decay_slots):
    return 1.0 if decay_slots is None else math.exp(-index / decay_slots)


def zero(blocks):
    """0 that is still connected to the graph, where there is one."""
    return sum((slot.nll * 0 for block in blocks for slot in block if slot), torch.zeros((), dtype=torch.float64))


def decayed_ce(blocks, decay_slots, reduction):
    top, bottom = zero(blocks), 0.0
    for block in blocks:
        for index, slot in enumerate(block):
            if slot:
                top = top + decay(index, decay_slots) * slot.nll
                bottom += decay(index, decay_slots)
    if reduction == "block_sum":
        bottom = sum(any(slot is not None for slot in block) for block in blocks)
    return top / bottom if bottom else top


def first_error(blocks, decay_slots):
    top, bottom = zero(blocks), 0.0
    for block in blocks:
        for index, slot in enumerate(block):
            if slot and not slot.hit:
                top = top + decay(index, decay_slots) * slot.nll
                bottom += decay(index, decay_slots)
                break
    return top / bottom if bottom else top


def chain_reward(blocks):
    return expected_share(blocks, lambda slot: torch.exp(-slot.nll))


def overlap_chain(blocks):
    return expected_share(blocks, overlap)


def expected_share(blocks, accepted):
    total, count = zero(blocks), 0
    for block in blocks:
        if all(slot is None for slot in block):
            continue
        count += 1
        joint = 1.0
        for slot in block:
            if slot is None:
                break
            joint = joint * accepted(slot)
            total = total + joint / len(block)
    return total / count if count else total


def dpace(blocks, smoothing):
    """Every term of the expected accepted length that slot j is part of, one by one."""
    top, count = zero(blocks), 0
    for block in blocks:
        cut = next((index for index, slot in enumerate(block) if slot is None), len(block))
        smoothed = [(1 - smoothing) * math.exp(-slot.nll.item()) + smoothing for slot in block[:cut]]
        for j in range(cut):
            worth = sum(math.prod(smoothed[: m + 1]) for m in range(j, cut))
            top = top + worth * block[j].nll
        count += sum(slot is not None for slot in block)
    return top / count if count else top


def accept_until_fail(blocks, decay_slots):
    top, bottom = zero(blocks), 0.0
    for block in blocks:
        for index, slot in enumerate(block):
            if slot is None:
                continue
            top = top + decay(index, decay_slots) * slot.nll
            bottom += decay(index, decay_slots)
            if not slot.hit:
                break
    return top / bottom if bottom else top


def overlap(slot):
    return sum(min(ours, theirs) for ours, theirs in zip(slot.drafter, slot.verifier, strict=True))


def kl(one, other):
    return sum(a * torch.log(a / b) for a, b in zip(one, other, strict=True))


def jsd(slot):
    middle = (slot.drafter + slot.verifier) / 2
    return kl(slot.drafter, middle) / 2 + kl(slot.verifier, middle) / 2


def total_variation(slot):
    return sum(abs(ours - theirs) for ours, theirs in zip(slot.drafter, slot.verifier, strict=True)) / 2


def lk_hybrid(slot, eta):
    share = math.exp(-eta * overlap(slot).item())
    return share * kl(slot.verifier, slot.drafter) + (1 - share) * (1 - overlap(slot))


def slot_mean(blocks, value, decay_slots=None):
    top, bottom = zero(blocks), 0.0
    for block in blocks:
        for index, slot in enumerate(block):
            if slot:
                top = top + decay(index, decay_slots) * value(slot)
                bottom += decay(index, decay_slots)
    return top / bottom if bottom else top
