"""Export: the drafter in the layout that serving engines read, written atomically and read back."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from drafter.models import BlockDiffusionDrafter


def export(
    drafter: BlockDiffusionDrafter, directory: Path, training: dict[str, Any], dtype: torch.dtype = torch.bfloat16
) -> BlockDiffusionDrafter:
    """Write `config.json`, `model.safetensors` and `training.json`; return the drafter as read back, in float32.

    Args:
        directory: replaced as a whole; a killed export leaves the old one, or none.
        training: what is known of the run, for `training.json`.
    Raises:
        ValueError: what was read back is not what was written.
    """
    scratch = directory.with_name(f".{directory.name}.{os.getpid()}")
    shutil.rmtree(scratch, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = BlockDiffusionDrafter(drafter.config).to(dtype)
        written.load_state_dict(drafter.state_dict())
        written.vocabulary = drafter.vocabulary
        written.save_pretrained(scratch)
        (scratch / "training.json").write_text(json.dumps(training, indent=2) + "\n")
        read = BlockDiffusionDrafter.from_pretrained(scratch, dtype=dtype)
        for name, weight in written.state_dict().items():
            if not torch.equal(weight, read.state_dict()[name]):
                raise ValueError(f"export={str(directory)!r}: {name} was read back with other values; export again")
        shutil.rmtree(directory, ignore_errors=True)
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return read.float().to(drafter.device).eval()
