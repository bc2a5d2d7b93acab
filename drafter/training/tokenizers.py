"""A tokenizer of a text's own: byte-level BPE with ChatML's marks, so that what learns it can be chatted with."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from drafter.config import TokenizerConfig
from drafter.verifier.loading import FOREIGN, reason

END, START, SPARE = "<|im_end|>", "<|im_start|>", "<|spare|>"  # the last is an id that text never uses
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(texts: Iterable[str], settings: TokenizerConfig) -> Any:
    """The tokenizer that a recipe names, or one made of `texts`.

    Raises:
        ValueError: there is none of that name.
    """
    if settings.source is not None:
        try:
            return AutoTokenizer.from_pretrained(settings.source, trust_remote_code=False)
        except FOREIGN as error:
            raise ValueError(f"tokenizer.source={settings.source!r}: can't be loaded ({reason(error)})") from None
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.size,
        special_tokens=[END, START, SPARE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=bare, eos_token=END, pad_token=END)
    made.chat_template = TEMPLATE
    return made
