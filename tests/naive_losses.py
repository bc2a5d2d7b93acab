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
    drafter: torch.Tensor  # [V] the drafter's law
    label: int


def log_softmax(logits):
    top = max(logits.tolist())
    return logits - (top + torch.log(sum(torch.exp(one - top) for one in logits)))


def make_blocks(hidden, head, labels, valid):
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
                block.append(Slot(-log_law[label], best == label, torch.exp(log_law), label))
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
    total, count = zero(blocks), 0
    for block in blocks:
        if all(slot is None for slot in block):
            continue
        count += 1
        joint = 1.0
        for slot in block:
            if slot is None:
                break
            joint = joint * torch.exp(-slot.nll)
            total = total + joint / len(block)
    return total / count if count else total
