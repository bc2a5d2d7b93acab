"""A verifier's tokenizer without its weights: loading, which id means which token, which one closes an answer."""

import hashlib
import json
import sys
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from drafter.verifier.conversion import resolve
from drafter.verifier.loading import FOREIGN, reason


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a hub id, a directory, a GGUF file or a packaged name (`smollm2`).

    Raises:
        ValueError: the source can't be found or has no tokenizer.
    """
    where = resolve(source)
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except FOREIGN as error:
        raise ValueError(
            f"verifier.source={source!r}: its tokenizer can't be loaded ({reason(error)}); name a hub id or a directory"
        ) from None


def text_config(source: str) -> Any:
    """The config of the text model that goes with a tokenizer.

    Raises:
        ValueError: the source can't be found, or is no model.
    """
    where = resolve(source)
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False).get_text_config()
    except FOREIGN as error:
        raise ValueError(
            f"verifier.source={source!r}: its config can't be read ({reason(error)}); name a hub id or a directory"
        ) from None


def context_length(source: str) -> int:
    """Tokens that the model of a tokenizer reads at most; recurrent ones may name no number."""
    return getattr(text_config(source), "max_position_embeddings", None) or sys.maxsize


def tokenizer_hash(tokenizer: Any) -> str | None:
    """A short hash of a tokenizer's vocabulary: which id means which token."""
    if tokenizer is None:
        return None
    entries = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()[:16]
