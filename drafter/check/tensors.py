"""Files and tensors against the contract, one tensor in memory at a time.

SGLang skips tensors that it does not know and never reports one that is missing; vLLM reads every safetensors file of
the directory. Both would serve a wrong drafter without a word.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from drafter.check.report import Finding
from drafter.check.verifier import VerifierFacts
from drafter.export.record import checksum
from drafter.layouts import Layout
from drafter.layouts.vocabulary import VOCABULARY_FILE, ids_of, read_vocabulary
from drafter.layouts.weights import CODES, FLOATS, INDEX, SINGLE, Weights
from drafter.models import BlockDiffusionDrafter
from drafter.verifier import VerifierHead

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
BORROWED = {
    "embed_tokens.weight": "engines lend the verifier's embedding; remove it",
    "lm_head.weight": "engines lend the verifier's head; remove it",
    "d2t": "its draft vocabulary belongs into draft_vocabulary.json in this layout; export again",
    "t2d": "its draft vocabulary belongs into draft_vocabulary.json in this layout; export again",
}
LISTED = 4


def check_files(directory: Path) -> Iterator[Finding]:
    """Files that no export has."""
    shards = (
        {path.name for path in directory.glob("model-*-of-*.safetensors")} if (directory / INDEX).exists() else set()
    )
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.suffix in PICKLES:
            yield Finding(name, f"{name}: is a pickle, which can run code when it is read; remove it")
        elif path.suffix == ".py":
            yield Finding(name, f"{name}: is remote code, which no engine needs; remove it")
        elif path.suffix == ".safetensors" and path.parent == directory and path.name not in {SINGLE, *shards}:
            yield Finding(name, f"{name}: vLLM reads it as weights too; remove it")


def check_tensors(weights: Weights, layout: Layout, facts: Mapping[str, Any], sums: Mapping[str, str]) -> list[Finding]:
    """Names, shapes, dtypes, values and checksums.

    Args:
        facts: all of those that decide shapes.
        sums: checksums that export recorded, by our names; empty where it recorded none.
    """
    expected = BlockDiffusionDrafter.shapes(facts)
    names = {layout.tensor(name): name for name in expected}
    extras = _vocabulary_shapes(layout, facts)
    found = list(_unknown(weights, names, extras, layout))
    wrong: dict[str, list[Finding]] = {"name": [], "shape": [], "dtype": [], "value": []}
    for theirs, shape in {**{name: expected[ours] for name, ours in names.items()}, **extras}.items():
        if theirs not in weights:
            wrong["name"].append(Finding(theirs, f"{theirs} is missing: export again, SGLang would serve without it"))
        elif weights.shape(theirs) != shape:
            wrong["shape"].append(Finding(theirs, _shape(theirs, weights.shape(theirs), shape)))
        elif theirs == "lm_head.weight":
            wrong["dtype"] += _dtype(theirs, weights.code(theirs), facts.get("dtype"))
        elif theirs in names:
            wrong["dtype"] += _dtype(theirs, weights.code(theirs), facts.get("dtype"))
            if weights.code(theirs) not in FLOATS:
                continue
            wrong["value"] += _values(theirs, weights[theirs], sums.get(names[theirs]) if sums else None)
    for kind, findings in wrong.items():
        found += findings[:LISTED]
        if len(findings) > LISTED:
            found.append(Finding("tensors", f"{len(findings) - LISTED} more tensors of a wrong {kind}: export again"))
    return found


def _unknown(
    weights: Weights, names: Mapping[str, str], extras: Mapping[str, tuple[int, ...]], layout: Layout
) -> Iterator[Finding]:
    unknown = [name for name in weights if name not in names and name not in extras]
    for name in unknown[:LISTED]:
        bare = name.removeprefix("draft_model.").removeprefix("model.")
        if name in BORROWED:
            yield Finding(name, f"{name}: {BORROWED[name]}")
        elif bare != name and bare in names:
            yield Finding(name, f"{name}: must be called {bare}; export again")
        elif bare in names.values():
            yield Finding(
                name, f"{name}: must be called {layout.tensor(bare)} in the {layout.name} layout; export again"
            )
        elif "mask_hidden" in name:
            yield Finding(name, f"{name}: vLLM refuses it, masked slots are embedded by mask_token_id; remove it")
        else:
            yield Finding(name, f"{name}: belongs to no such drafter; remove it, or correct num_hidden_layers")
    if len(unknown) > LISTED:
        yield Finding("tensors", f"{len(unknown) - LISTED} more tensors belong to no such drafter; export again")


def _shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(shape) == 2 and shape == expected[::-1]:
        return f"{name} is {list(shape)}: transposed; write [out, in] = {list(expected)}"
    return f"{name} is {list(shape)}: config.json says {list(expected)}; correct the one that is wrong"


def _dtype(name: str, code: str, dtype: Any) -> Iterator[Finding]:
    if dtype in ("bfloat16", "float16", "float32") and code != CODES[getattr(torch, dtype)]:
        yield Finding(name, f"{name} is stored as {code}: config.json says dtype={dtype!r}; export again")


def _values(name: str, value: torch.Tensor, expected: str | None) -> Iterator[Finding]:
    if not torch.isfinite(value).all():
        yield Finding(name, f"{name}: holds NaN or infinity; export an earlier checkpoint")
    elif not value.any() and not name.endswith("bias"):
        yield Finding(name, f"{name}: is all zeros; it was never trained or never written: export again")
    elif expected is not None and checksum(value) != expected:
        yield Finding(name, f"{name}: is not what was exported (checksum in training.json); export again")


def _vocabulary_shapes(layout: Layout, facts: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The tensors of a draft vocabulary, in a layout that stores it so."""
    size, whole = facts.get("draft_vocab_size"), facts["vocab_size"]
    if layout.side_file or size in (None, whole):
        return {}
    return {"d2t": (size,), "t2d": (whole,), "lm_head.weight": (size, facts["hidden_size"])}


def check_vocabulary(directory: Path, weights: Weights, layout: Layout, facts: Mapping[str, Any]) -> Iterator[Finding]:
    """The draft vocabulary: ascending ids of the verifier, told twice alike."""
    size = facts["vocab_size"]
    if layout.side_file:
        path = directory / VOCABULARY_FILE
        if path.is_file():
            try:
                read_vocabulary(path, size)
            except ValueError as error:
                yield Finding(VOCABULARY_FILE, str(error))
        return
    if any(
        weights.shape(name) != shape for name, shape in _vocabulary_shapes(layout, facts).items() if name in weights
    ):
        return  # said already
    if "d2t" in weights and "t2d" in weights and weights.code("t2d") == "BOOL":
        try:
            ids = ids_of(weights["d2t"], "d2t", size)
        except ValueError as error:
            yield Finding("d2t", str(error))
            return
        if not torch.equal(weights["t2d"].nonzero()[:, 0], ids):
            yield Finding("t2d", "t2d: must be true at exactly the ids of d2t; export again")
    elif "d2t" in weights or "t2d" in weights:
        yield Finding("d2t", "d2t, t2d: must be there together, t2d as bool; export again")


def check_head(weights: Weights, verifier: VerifierFacts) -> Iterator[Finding]:
    """The head's rows of the draft vocabulary, where they are stored, against the verifier's as it stores them.

    The verifier's file is mapped: of embedding and head, those rows alone come into memory.

    Raises:
        ValueError: the verifier's own can't be read.
    """
    if "lm_head.weight" in weights and "d2t" in weights:
        stored, offsets = weights["lm_head.weight"], weights["d2t"]
        theirs = VerifierHead.load(verifier.where, None).head[offsets + torch.arange(len(offsets))]
        if not torch.equal(theirs.to(stored.dtype), stored):
            yield Finding("lm_head.weight", "lm_head.weight: is not the verifier's, row d2t[i] + i; export again")


def check_tokenizer(record: Mapping[str, Any], verifier: VerifierFacts) -> Iterator[Finding]:
    """The verifier's tokenizer against that of training."""
    recorded = record.get("tokenizer")
    if recorded is not None and verifier.tokenizer is not None and recorded != verifier.tokenizer:
        yield Finding(
            "tokenizer",
            f"verifier={verifier.name!r}: its tokenizer is not that of training ({verifier.tokenizer}, not "
            f"{recorded}); name the verifier that the drafter was trained against",
        )
