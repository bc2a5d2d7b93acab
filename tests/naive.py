"""Obvious references, one position at a time, in float64 where numbers matter. Slow on purpose."""

import copy

import torch
from torch.nn import functional


def block_mask(anchors, sequence_length, block_size, documents=None):
    """Which keys each slot sees, entry by entry: nested lists [B][A*K][S + A*K]."""
    mask = []
    for row, starts in enumerate(anchors.tolist()):
        queries = []
        for block, anchor in enumerate(starts):
            for _ in range(block_size):
                context = [
                    position < anchor and (documents is None or documents[row, position] == documents[row, anchor])
                    for position in range(sequence_length)
                ]
                slots = [other == block for other in range(len(starts)) for _ in range(block_size)]
                queries.append([bool(seen) for seen in context] + slots)
        mask.append(queries)
    return mask


def slot_labels(ids, supervised, anchor, used, block_size):
    """What slots 1.. of one block predict, as far as the answer goes: a list of at most block_size - 1 ids."""
    labels = []
    for position in range(anchor + 1, anchor + block_size):
        if not used or position >= len(ids) or not supervised[position]:
            break
        labels.append(int(ids[position]))
    return labels


def candidates(supervised):
    """Positions where a block may be anchored: an answer token that another one follows."""
    return [i for i in range(len(supervised) - 1) if supervised[i] and supervised[i + 1]]


def cycles(answer, drafts, draft_length):
    """Decode a known greedy answer token by token: (emitted, accepted) of each cycle.

    Args:
        answer: the verifier's tokens; the first is the prefill's.
        drafts: drafts[i] are the tokens proposed behind answer[i].
        draft_length: how many of them are used.
    """
    emitted, accepted = [], []
    at = 0  # index of the last known token
    while at + 1 < len(answer):
        kept = 0
        while kept < draft_length and at + 1 + kept < len(answer) and drafts[at][kept] == answer[at + 1 + kept]:
            kept += 1
        new = answer[at + 1 : at + 1 + kept + 1]  # the kept drafts and the verifier's own token, if any is left
        emitted.append(len(new))
        accepted.append(kept)
        at += len(new)
    return emitted, accepted


def wide(model):
    """A float64 copy of a transformers model with its plainest attention."""
    copied = copy.deepcopy(model).double()
    copied.set_attn_implementation("eager")
    return copied


@torch.no_grad()
def greedy(model, prompt, max_new_tokens, stop_ids=()):
    """Plain greedy decoding without any cache: the whole sequence again for every token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + max_new_tokens:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt) :]


def law(logits, temperature, top_p=1.0, top_k=0):
    """The adjusted law of one position's logits [V], token by token, float64."""
    logits = [float(value) for value in logits]
    order = sorted(range(len(logits)), key=lambda token: -logits[token])
    if top_k:
        order = order[:top_k]
    weight = {token: torch.tensor(logits[token] / temperature, dtype=torch.float64).exp().item() for token in order}
    total, mass, kept = sum(weight.values()), 0.0, []
    for token in order:
        if mass >= top_p:
            break
        kept.append(token)
        mass += weight[token] / total
    total = sum(weight[token] for token in kept)
    return [weight[token] / total if token in kept else 0.0 for token in range(len(logits))]


def fill_block(drafter, block, taps, anchor):
    """The drafter's output for one block [K, D] behind taps [anchor, T*D], head by head in float64; [K, D]."""
    weights = {name: weight.detach().double() for name, weight in drafter.state_dict().items()}
    config = drafter.config
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    theta = config.rope_parameters["rope_theta"]

    def norm(x, name):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + config.rms_norm_eps) * weights[f"{name}.weight"]

    def rotate(x, position):
        half = width // 2
        angle = torch.tensor([position * theta ** (-2 * i / width) for i in range(half)], dtype=torch.float64)
        a, b = x[:half], x[half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])

    def split(x, name, count):
        return (x @ weights[f"{name}.weight"].T).view(len(x), count, width)

    context = norm(taps.double() @ weights["fc.weight"].T, "hidden_norm")
    hidden = block.double()
    positions = [*range(anchor), *range(anchor, anchor + len(block))]
    for index in range(config.num_hidden_layers):
        at = f"layers.{index}"
        normed = norm(hidden, f"{at}.input_layernorm")
        both = torch.cat([context, normed])
        query = norm(split(normed, f"{at}.self_attn.q_proj", heads), f"{at}.self_attn.q_norm")
        key = norm(split(both, f"{at}.self_attn.k_proj", kv_heads), f"{at}.self_attn.k_norm")
        value = split(both, f"{at}.self_attn.v_proj", kv_heads)
        rows = []
        for slot in range(len(block)):
            outputs = []
            for head in range(heads):
                group = head // (heads // kv_heads)
                mine = rotate(query[slot, head], anchor + slot)
                seen = torch.stack([mine @ rotate(key[i, group], p) for i, p in enumerate(positions)])
                outputs.append((seen / width**0.5).softmax(0) @ value[:, group])
            rows.append(torch.cat(outputs))
        hidden = hidden + torch.stack(rows) @ weights[f"{at}.self_attn.o_proj.weight"].T
        normed = norm(hidden, f"{at}.post_attention_layernorm")
        gate = functional.silu(normed @ weights[f"{at}.mlp.gate_proj.weight"].T)
        up = normed @ weights[f"{at}.mlp.up_proj.weight"].T
        hidden = hidden + (gate * up) @ weights[f"{at}.mlp.down_proj.weight"].T
    return norm(hidden, "norm")


def moving_average(begun, path, decay):
    """The average behind the last of the weights `path`, begun with `begun`, in float64."""
    average = begun.double()
    for number, weights in enumerate(path, start=1):
        kept = min(decay, (1 + number) / (10 + number))
        average = kept * average + (1 - kept) * weights.double()
    return average
