"""What each fact of a drafter must be: a test of its value, and the words that say so."""

from collections.abc import Callable
from typing import Any

from drafter.layouts.base import DEEPEST, FULL, SLIDING
from drafter.layouts.rope import number

DTYPES = ("bfloat16", "float16", "float32")


def _positive(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**31


def exactly(*allowed: Any) -> Callable[[Any], bool]:
    """A test for one of these values, of the same type."""
    return lambda value: any(type(value) is type(one) and value == one for one in allowed)


# The extra ones are the speculators layout's.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hidden_size": (_positive, "the verifier's width, an integer"),
    "intermediate_size": (_positive, "the rows of mlp.gate_proj, an integer"),
    "num_hidden_layers": (
        lambda value: _positive(value) and value <= DEEPEST,
        f"the drafter's depth, an integer between 1 and {DEEPEST}",
    ),
    "num_attention_heads": (_positive, "an integer >= 1"),
    "num_key_value_heads": (_positive, "an integer that divides num_attention_heads"),
    "head_dim": (lambda value: _positive(value) and value % 2 == 0, "an even integer, the length of q_norm"),
    "hidden_act": (exactly("silu"), '"silu", the activation that engines run'),
    "rms_norm_eps": (lambda value: type(value) is float and 0 < value < 0.01, "a small number such as 1e-6"),
    "attention_bias": (lambda value: type(value) is bool, "true or false"),
    "vocab_size": (_positive, "the verifier's vocabulary, an integer"),
    "max_position_embeddings": (_positive, "the verifier's context, an integer"),
    "rope_theta": (lambda value: number(value) and value > 1, "the verifier's RoPE base"),
    "rope_parameters": (
        lambda value: isinstance(value, dict),
        '{"rope_type": ..., "rope_theta": the verifier\'s} and the fields of its scaling',
    ),
    "layer_types": (
        lambda value: isinstance(value, list) and bool(value) and all(exactly(FULL, SLIDING)(one) for one in value),
        f'["{FULL}", ...], one per layer',
    ),
    "sliding_window": (lambda value: value is None or _positive(value), "null where no layer slides"),
    "is_causal": (exactly(True, False), "false: every slot of a block sees all others"),
    "tie_word_embeddings": (exactly(True, False), "false: a drafter has no embedding and no head to tie"),
    "final_logit_softcapping": (
        lambda value: value is None or number(value),
        "the soft cap of the verifier's head, a number > 0",
    ),
    "dtype": (lambda value: value in DTYPES, f"one of {', '.join(DTYPES)}"),
    "block_size": (lambda value: type(value) is int and value >= 2, "an integer >= 2, the anchor included"),
    "num_target_layers": (_positive, "the verifier's depth, an integer"),
    "mask_token_id": (lambda value: type(value) is int and value >= 0, "the id that filled masked slots in training"),
    "target_layer_ids": (
        lambda value: isinstance(value, list) and bool(value) and all(type(one) is int for one in value),
        "a list of the verifier's tapped layers",
    ),
    "draft_vocab_size": (_positive, "the number of tokens that may be proposed"),
    "verifier_name": (lambda value: isinstance(value, str) and bool(value), "the verifier's hub id or directory"),
    "verifier_architectures": (lambda value: isinstance(value, list) and bool(value), "the verifier's architectures"),
}
