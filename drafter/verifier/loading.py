"""From what a user names as the verifier to a model of transformers and its tokenizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from drafter.verifier.conversion import resolve
from drafter.verifier.quantised import in_eight_bits, load_eight_bits
from drafter.verifier.shards import absent_files

# What code and files of other people's making raise: which of these depends on the family.
FOREIGN = (
    *(OSError, ValueError, ImportError, LookupError, AttributeError, TypeError, RuntimeError, AssertionError),
    *(StrictDataclassError, SafetensorError),
)


def load_model(source: str, dtype: torch.dtype | None, device: str) -> tuple[Any, Any]:
    """A causal LM of transformers and its tokenizer.

    Args:
        dtype: of the weights; None for the stored one.
    Raises:
        ValueError: the source can't be found, or transformers can't make a causal LM of it.
    """
    where = resolve(source)
    if absent := absent_files(where):
        raise ValueError(
            f"verifier.source={source!r}: {len(absent)} of its files are not there, the first {absent[0]}: what runs "
            "the verifier needs the whole of it; copy them, or, to train on taps made elsewhere, set verifier.body=none"
        )
    with refusing(source):
        if in_eight_bits(where):
            model = load_eight_bits(where, dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, trust_remote_code=False)
        return model.to(device), AutoTokenizer.from_pretrained(where, trust_remote_code=False)


@contextmanager
def refusing(source: str) -> Iterator[None]:
    """Say in one line why a source can't be loaded, whatever went wrong inside."""
    try:
        yield
    except FOREIGN as error:
        raise ValueError(
            f"verifier.source={source!r}: can't be loaded as a causal LM ({reason(error)}); "
            "name a hub id, a directory or a GGUF file of one"
        ) from error


def reason(error: BaseException) -> str:
    """The line of an error that says most."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, StrictDataclassError) else 0].strip()
