"""`training.json`: what an export remembers of its run, and the checksums that hold it to that."""

import hashlib
import importlib.util
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from drafter.layouts import RULES
from drafter.layouts.weights import tensor_bytes
from drafter.models.storage import read_object
from drafter.verifier.conversion import PACKAGED

RECORD = "training.json"
NUMBER = (int, float)
KINDS: dict[str, Any] = {  # of what is read again, each behind what it is in; * is every name
    "recipe": dict,
    "recipe.name": str,
    "recipe.verifier": dict,
    "recipe.verifier.source": str,
    "recipe.data": dict,
    "recipe.data.sequence_length": int,
    "recipe.losses": dict,
    "recipe.losses.*": dict,
    "data": dict,
    "facts": dict,
    "sha256": dict,
    "probe": dict,
    "probe.prompts": list,
    "probe.prompts.*": list,
    "probe.prompts.*.*": int,
    "probe.max_new_tokens": int,
    "probe.tokens_per_cycle": NUMBER,
    "results": dict,
    "results.suites": dict,
    "results.suites.*": dict,
    "results.suites.*.tokens_per_cycle": NUMBER,
    "results.suites.*.low": NUMBER,
    "results.suites.*.high": NUMBER,
    "results.tokens_per_second": dict,
    "results.tokens_per_second.*": NUMBER,
    "results.speedup": NUMBER,
    "provenance": dict,
    "tokens_per_cycle": NUMBER,
    "stages": list,
    "stages.*": dict,
}


def checksum(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes, shortened to 16 digits."""
    return hashlib.sha256(tensor_bytes(tensor.detach().cpu())).hexdigest()[:16]


def read_record(directory: Path) -> dict[str, Any]:
    """`training.json` of an export; empty where there is none.

    Raises:
        ValueError: it is no JSON object, or a field of it is of another kind than was written.
    """
    path = directory / RECORD
    record = read_object(path) if path.is_file() else {}
    for place, kind in KINDS.items():
        for name, value in _at(record, place.split(".")):
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"{path}: {name}={value!r}: not what an export writes; export again, or delete it")
    for fact, value in (record.get("facts") or {}).items():
        if value and fact in RULES and not RULES[fact][0](value):
            raise ValueError(f"{path}: facts.{fact}={value!r}: must be {RULES[fact][1]}; export again, or delete it")
    return record


def _at(record: Any, parts: list[str], place: str = "") -> Iterator[tuple[str, Any]]:
    """What stands at a place of a record, with its name; nothing where there is no such place."""
    if not parts:
        yield place.removeprefix("."), record
        return
    named = record if isinstance(record, dict) else dict(enumerate(record)) if isinstance(record, list) else {}
    for name, value in named.items():
        if parts[0] in ("*", name):
            yield from _at(value, parts[1:], f"{place}.{name}")


def keeps_reasoning(record: dict[str, Any]) -> bool:
    """Whether the verifier thought before it answered in training; yes where the record is silent."""
    data = (record.get("recipe") or {}).get("data") or {}
    return bool(data.get("keep_reasoning", True))


def longest_row(record: dict[str, Any]) -> int | None:
    """Tokens of a training row at most; None where the record is silent."""
    data = (record.get("recipe") or {}).get("data") or {}
    return data.get("sequence_length")


def provenance() -> dict[str, str]:
    """Commit of this code, where it is a checkout, and the versions that decide numbers."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--show-prefix", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        prefix, _, commit = found.stdout.strip().partition("\n")
        if prefix != "drafter/export/":  # installed below somebody else's checkout
            commit = ""
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    versions = {name: _version(name) for name in ("block-drafter", "torch", "transformers")}
    return {"commit": commit or "not a checkout", **versions}


def hardware(device: str) -> str:
    """The processor, its threads in use, and the GPU if there is one."""
    found = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        found = names[0] if names else found
    cpu = f"{found}, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name(device)}; {cpu}" if device.startswith("cuda") else cpu


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def licence(source: str) -> str | None:
    """The licence that a verifier states of itself: in its GGUF file, or in its model card; None where it says none."""
    gguf = _gguf(source)
    if gguf is not None:
        from gguf import GGUFReader

        fields = GGUFReader(str(gguf)).fields if gguf.is_file() else {}
        return str(fields["general.license"].contents()) if "general.license" in fields else None
    card = Path(source).expanduser() / "README.md"
    if not card.parent.is_dir() and source.count("/") == 1:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            card = Path(hf_hub_download(source, "README.md"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
            return None
    stated = front_matter(card).get("license") if card.is_file() else None
    if isinstance(stated, list):
        return ", ".join(map(str, stated))
    return None if stated is None else str(stated)


def _gguf(source: str) -> Path | None:
    if source in PACKAGED:
        package, name, _ = PACKAGED[source]
        found = importlib.util.find_spec(package)
        return Path((found.submodule_search_locations or [""])[0]) / name if found is not None else None
    return Path(source) if source.endswith(".gguf") else None


def front_matter(card: Path) -> dict[str, Any]:
    """The YAML block at the top of a model card."""
    import yaml

    parts = card.read_text(errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
