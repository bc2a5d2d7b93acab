"""Export: a drafter in the layout that an engine reads, written atomically, read back, with what is known of its run.

Beside the weights stands `training.json`: the recipe, the verifier's fingerprint, the tokens per cycle measured in
training and on a few probe prompts, and a checksum of every tensor. `drafter check` holds the export to it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from drafter.export.card import write_card
from drafter.export.original import Original, of_drafter, open_original
from drafter.export.record import RECORD, checksum
from drafter.files import atomically, write_json
from drafter.layouts import LAYOUTS, Layout, find_layout
from drafter.layouts.weights import SHARD_BYTES
from drafter.models import BlockDiffusionDrafter
from drafter.models.storage import Stored, read_config, save_drafter
from drafter.verifier import VerifierHead
from drafter.verifier.conversion import resolve
from drafter.verifier.loading import FOREIGN, reason

__all__ = ["DTYPES", "check_place", "convert", "export", "open_original", "write_export"]

DTYPES = ("bfloat16", "float16", "float32")


def export(
    drafter: BlockDiffusionDrafter, directory: Path, training: dict[str, Any], dtype: torch.dtype = torch.bfloat16
) -> BlockDiffusionDrafter:
    """Write a drafter in the canonical layout; return it as read back, in float32.

    Args:
        directory: replaced as a whole; a killed export leaves the old one or the new one.
        training: what is known of the run, for `training.json`.
    Raises:
        ValueError: what was read back is not what was written.
    """
    write_export(of_drafter(drafter, training), directory, dtype=str(dtype).removeprefix("torch."))
    return BlockDiffusionDrafter.from_pretrained(directory, dtype=torch.float32, device=drafter.device)


def convert(
    source: str | Path,
    directory: Path,
    layout: str = "canonical",
    *,
    dtype: str | None = "bfloat16",
    verifier: str | None = None,
    known: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the drafter of a checkpoint, a directory or a hub id in another layout.

    Args:
        dtype: of the weights; None keeps the source's.
        verifier: hub id or directory, for the layout that names it; where None, the one that training recorded.
        known: added to what `training.json` of the source holds.
    Raises:
        ValueError: the source is no drafter, its tensors are not those that were recorded, or the layout can't hold it.
    """
    found = open_original(source)
    found.training = {**found.training, **(known or {})}
    write_export(found, directory, layout, dtype=dtype, verifier=verifier, shard_bytes=shard_bytes)


def write_export(
    source: Original,
    directory: Path,
    layout: str = "canonical",
    *,
    dtype: str | None = "bfloat16",
    verifier: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write `source` into `directory`, which is replaced as a whole once all is written and read back."""
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r}: choose one of {', '.join(LAYOUTS)}")
    facts = {**source.facts, "dtype": dtype or source.facts["dtype"]}
    if facts["dtype"] not in DTYPES:
        raise ValueError(f"dtype={facts['dtype']!r}: choose one of {', '.join(DTYPES)}")
    check_place(directory)
    head = None
    if not LAYOUTS[layout].side_file:
        facts |= _verifier_facts(verifier or source.verifier, facts)
        head = _rows(verifier or source.verifier, source)
    directory.parent.mkdir(parents=True, exist_ok=True)
    sums: dict[str, str] = {}
    written = getattr(torch, facts["dtype"])

    def tensor(name: str) -> torch.Tensor:
        value = source.tensor(name).detach().to("cpu", written)
        if not value.isfinite().all():
            raise ValueError(
                f"{name}: holds NaN, infinity or numbers beyond {facts['dtype']}; export an earlier checkpoint, or in "
                "another dtype"
            )
        sums[name] = checksum(value)
        return value

    shapes = BlockDiffusionDrafter.shapes(facts)
    with atomically(directory, folder=True, over=True) as scratch:
        save_drafter(
            scratch,
            LAYOUTS[layout],
            facts,
            tensor,
            shapes,
            vocabulary=source.vocabulary,
            head=head,
            shard_bytes=shard_bytes,
        )
        _read_back(scratch, LAYOUTS[layout], sums)
        record = {**source.training, "facts": {**source.facts, "dtype": facts["dtype"]}, "sha256": sums}
        write_json(scratch / RECORD, record)
        write_card(scratch, directory.name)


def check_place(directory: Path) -> None:
    """Raise a ValueError unless an export may be written here: it replaces an older one, and nothing else."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"out={str(directory)!r}: is a file; name a directory")
    here = Path.cwd()
    if directory.resolve() in (here, *here.parents):
        raise ValueError(f"out={str(directory)!r}: holds the working directory; name another")
    if directory.is_dir() and any(directory.iterdir()) and not _is_export(directory):
        raise ValueError(f"out={str(directory)!r}: holds other files; name a new directory or an old export")


def _is_export(directory: Path) -> bool:
    """Whether a directory holds what an export wrote, or a drafter alike, and no folders, which none has."""
    if not (directory / "config.json").is_file() or any(path.is_dir() for path in directory.iterdir()):
        return False
    return (directory / RECORD).is_file() or find_layout(read_config(directory)) is not None


def _read_back(scratch: Path, layout: Layout, sums: Mapping[str, str]) -> None:
    stored = Stored(scratch)
    for name, expected in sums.items():
        if checksum(stored[name]) != expected:
            raise ValueError(
                f"export={str(scratch)!r}: {layout.tensor(name)} was read back with other values; export again"
            )


def _verifier_facts(verifier: str | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the speculators layout says of the verifier."""
    if verifier is None:
        raise ValueError("verifier=None: the speculators layout names its verifier; say which with --verifier NAME")
    from transformers import AutoConfig

    where = resolve(verifier)
    try:
        config = AutoConfig.from_pretrained(where, trust_remote_code=False)
    except FOREIGN as error:
        raise ValueError(f"verifier={verifier!r}: can't be read ({reason(error)})") from None
    if config.get_text_config().hidden_size != facts["hidden_size"]:
        raise ValueError(
            f"verifier={verifier!r}: is {config.get_text_config().hidden_size} wide, the drafter "
            f"{facts['hidden_size']}; name the verifier that it was trained against"
        )
    return {"verifier_name": where, "verifier_architectures": list(config.architectures or [])}


def _rows(verifier: str | None, source: Original) -> torch.Tensor | None:
    """The rows of the verifier's head that belong to the draft vocabulary, if there is one."""
    if source.vocabulary is None or source.head is not None or verifier is None:
        return source.head
    return VerifierHead.load(verifier, None).head[source.vocabulary.cpu()]
