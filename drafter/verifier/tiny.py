"""Random verifiers with a byte vocabulary: `tiny-llama`, `tiny-qwen2`, `tiny-qwen3`, `tiny-gemma3`. No download.

They say nothing sensible; they exercise every stage in seconds, which is what tests and a first look need.
"""

from pathlib import Path
from typing import Any

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def build(family: str, seed: int = 0) -> tuple[Any, Any]:
    """A model and a tokenizer; the same ones for the same arguments."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = _tokenizer()
    sizes = {
        "vocab_size": 288,  # more than the tokenizer has, as real heads are padded
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
        "tie_word_embeddings": True,
    }
    if family == "gemma3":
        family, sizes["sliding_window"] = "gemma3_text", 32
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, **sizes)
        return AutoModelForCausalLM.from_config(config).float().eval(), tokenizer


def save(family: str, directory: Path) -> None:
    """Write model and tokenizer as transformers reads them."""
    model, tokenizer = build(family)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|end|>", "<|start|>", "<|mask|>"]
    vocabulary = {token: index for index, token in enumerate(special + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=["<|start|>", "<|mask|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
