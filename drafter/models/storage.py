"""Drafters on disk: any layout in, any layout out, one tensor in memory at a time."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from drafter.layouts import FACTS, Layout, detect
from drafter.layouts.base import SLIDING
from drafter.layouts.fused import Unfused
from drafter.layouts.reading import read_facts
from drafter.layouts.vocabulary import VOCABULARY_FILE, engine_vocabulary, ids_of, read_vocabulary
from drafter.layouts.weights import FLOATS, SHARD_BYTES, Entry, Weights, write_weights
from drafter.verifier.conversion import PACKAGED, resolve

log = logging.getLogger(__name__)

MASK_FILE = "mask_embedding.pt"
NESTED = ("mask_token_id", "target_layer_ids")
BORROWED = ("embed_tokens.weight", "lm_head.weight", "verifier_norm.weight", "verifier_lm_head.weight", "d2t", "t2d")
"""What some exporters add: the verifier's own tensors, and the draft vocabulary as engines read it."""


def facts_of(config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The facts of a BlockDiffusionConfig, as layouts write them."""
    nested = config.dflash_config or {}
    rope = dict(config.rope_parameters)
    facts = {
        fact: nested[fact] if fact in NESTED else getattr(config, fact)
        for fact in FACTS
        if fact not in ("rope_theta", "rope_parameters", "dtype")
    }
    return facts | {
        "rope_theta": rope["rope_theta"],
        "rope_parameters": rope,
        "dtype": str(dtype).removeprefix("torch."),
        "layer_types": list(facts["layer_types"]),
        "target_layer_ids": list(facts["target_layer_ids"]),
    }


def settings_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a BlockDiffusionConfig with these facts; those that are missing take Qwen3's defaults."""
    flat = {fact: facts[fact] for fact in FACTS if fact in facts and fact not in (*NESTED, "rope_theta", "dtype")}
    slides = SLIDING in (facts.get("layer_types") or ())
    return flat | {"use_sliding_window": slides, "dflash_config": {fact: facts[fact] for fact in NESTED}}


class Stored:
    """A drafter in a directory, read lazily, under our own names whatever its layout.

    Attributes:
        layout, config: as found; `config` is the whole `config.json`.
        facts: see `drafter.layouts`.
        weights: the tensors, under the layout's names.

    Raises:
        ValueError: files, fields or tensors are missing, unknown or of the wrong shape.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.config = read_config(directory)
        self.layout = detect(self.config)
        self.facts = read_facts(self.config, self.layout)
        if (directory / MASK_FILE).exists():
            raise ValueError(
                f"{directory / MASK_FILE}: a mask vector that was learned and stands in masked slots instead of the "
                "embedding of mask_token_id; it is a pickle, which is never read: choose a drafter without it"
            )
        self.weights = Unfused(Weights(directory), self.facts)

    def __getitem__(self, name: str) -> Tensor:
        return self.weights[self.layout.tensor(name)]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; the widest where they differ."""
        codes = {self.weights.code(name) for name in self.weights if name not in BORROWED}
        return max((FLOATS[code] for code in codes if code in FLOATS), key=lambda dtype: dtype.itemsize)

    def build(self, kind: Any) -> Any:
        """The config of a drafter of class `kind`, once the tensors are found to be those that it has."""
        try:
            config = kind.config_class(**settings_of(self.facts))
        except StrictDataclassError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{self.directory}: {reason}; correct config.json") from None
        self.check(kind.shapes(facts_of(config, torch.float32)).items())
        return config

    def check(self, expected: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        """Raise a ValueError unless exactly the tensors (name, shape) are there."""
        left = set(self.weights)
        for name, shape in expected:
            theirs = self.layout.tensor(name)
            if theirs not in left:
                raise ValueError(f"{self.directory}: tensor {theirs} is missing; export or download the drafter again")
            if self.weights.shape(theirs) != shape:
                raise ValueError(
                    f"{self.directory}: {theirs} has shape {list(self.weights.shape(theirs))}, config.json says "
                    f"{list(shape)}; export again"
                )
            if (code := self.weights.code(theirs)) not in FLOATS:
                raise ValueError(f"{self.directory}: {theirs} is stored as {code}, quantised; choose another drafter")
            left.remove(theirs)
        unknown = sorted(left - set(BORROWED))
        if sinks := [name for name in unknown if "sink" in name]:
            raise ValueError(
                f"{self.directory}: tensor {sinks[0]}: attention sinks, which no drafter here has; choose another"
            )
        if unknown:
            raise ValueError(f"{self.directory}: tensor {unknown[0]} belongs to no such drafter; export again")
        for name in ("embed_tokens.weight", "lm_head.weight"):
            if name in left:
                log.info("%s: %s is left out, the verifier's is used", self.directory, name)

    def vocabulary(self) -> Tensor | None:
        """Ids that the drafter may propose, ascending [V'], or None for all.

        Raises:
            ValueError: what is stored is no such list.
        """
        size = self.facts.get("vocab_size")
        if "d2t" in self.weights:
            return ids_of(self.weights["d2t"], f"{self.directory}: d2t", size)
        path = self.directory / VOCABULARY_FILE
        return read_vocabulary(path, size) if path.is_file() else None

    def head(self) -> Tensor | None:
        """The head's rows of the draft vocabulary, where they are stored.

        Raises:
            ValueError: they are of another number than its ids.
        """
        if not {"d2t", "lm_head.weight"} <= self.weights.keys():
            return None
        rows, ids = self.weights.shape("lm_head.weight")[:1], self.weights.shape("d2t")
        if rows != ids:
            raise ValueError(f"{self.directory}: lm_head.weight has {list(rows)} rows, d2t {list(ids)}; export again")
        return self.weights["lm_head.weight"]


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a directory.

    Raises:
        ValueError: there is none, or it holds no object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ValueError(f"{directory}: has no config.json; name a directory that `drafter export` wrote")
    return read_object(path)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of an export.

    Raises:
        ValueError: the file holds none.
    """
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: no valid JSON ({error}); export again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: holds no JSON object; export again")
    return found


def find(source: str | Path, name: str = "drafter") -> Path:
    """The directory of a drafter: `source` itself, or where the files of a hub id, GGUF file or packaged name are kept.

    Args:
        name: of what names it, for errors.
    Raises:
        ValueError: neither exists.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if str(source) in PACKAGED or str(source).startswith("tiny-") or path.suffix == ".gguf":
        return Path(resolve(str(source)))
    if path.is_absolute() or str(source).startswith((".", "~")) or str(source).count("/") != 1:
        raise ValueError(f"{name}={str(source)!r}: no such directory; check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.jinja", "*.safetensors", MASK_FILE]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name}={str(source)!r}: no such directory, and not on the hub ({reason})") from None


def load(kind: Any, source: str | Path, dtype: torch.dtype | None, device: Any) -> Any:
    """Build a `kind` of drafter from a directory or hub id, strictly: every tensor is read and none is invented.

    Args:
        dtype: None for the stored one.
    """
    stored = Stored(find(source))
    config = stored.build(kind)
    dtype = stored.dtype if dtype is None else dtype
    with torch.device("meta"):
        drafter = kind(config)
    drafter.rotary_emb = type(drafter.rotary_emb)(config)  # its buffer is computed, not stored
    for name in list(drafter.state_dict()):
        module, _, leaf = name.rpartition(".")
        value = stored[name].to(device=device, dtype=dtype, copy=True)
        setattr(drafter.get_submodule(module), leaf, torch.nn.Parameter(value))
    vocabulary = stored.vocabulary()
    drafter.vocabulary = None if vocabulary is None else vocabulary.to(device)
    return drafter.to(device).eval()


def save_drafter(
    directory: Path,
    layout: Layout,
    facts: Mapping[str, Any],
    tensor: Callable[[str], Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    vocabulary: Tensor | None = None,
    head: Tensor | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a drafter.

    Args:
        facts: see `drafter.layouts`; `dtype` is what the tensors are written in.
        tensor: returns a tensor by our name, in any dtype and on any device.
        shapes: of all tensors, by our names.
        vocabulary: ids that may be proposed [V'], or None.
        head: the head's rows of those ids [V', D]; for layouts that store them.
    Raises:
        ValueError: the layout can't express this drafter.
    """
    directory.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, facts["dtype"])
    names = {layout.tensor(name): name for name in shapes}
    entries = [Entry(layout.tensor(name), shape, dtype) for name, shape in shapes.items()]
    extra: dict[str, Tensor] = {}
    if not layout.side_file:
        facts = {"draft_vocab_size": facts["vocab_size"] if vocabulary is None else len(vocabulary)} | dict(facts)
        extra = {} if vocabulary is None else engine_vocabulary(vocabulary, head, facts, dtype)
    elif vocabulary is not None:
        (directory / VOCABULARY_FILE).write_text(json.dumps({"ids": vocabulary.tolist()}) + "\n")
    config = layout.write(facts)
    entries += [Entry(name, tuple(value.shape), value.dtype) for name, value in extra.items()]

    def converted(name: str) -> Tensor:
        if name in extra:
            return extra[name]
        return tensor(names[name]).detach().to(device="cpu", dtype=dtype)

    write_weights(directory, sorted(entries, key=lambda entry: entry.name), converted, shard_bytes)
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
