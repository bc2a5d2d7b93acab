"""A draft vocabulary on disk: ids in a file of their own, or tensors as engines read them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCABULARY_FILE = "draft_vocabulary.json"  # no safetensors: vLLM reads every such file of a directory as weights


def ids_of(offsets: Tensor, where: str, size: int | None) -> Tensor:
    """The ids of a draft vocabulary that is stored as offsets, as engines read it: id - i at i.

    Raises:
        ValueError: they are no ascending ids of a vocabulary of `size` tokens.
    """
    if offsets.dtype is torch.int64 and offsets.ndim == 1 and len(offsets):
        ids = offsets + torch.arange(len(offsets))
        if ids[0] >= 0 and bool((ids.diff() > 0).all()) and (size is None or ids[-1] < size):
            return ids
    raise ValueError(f"{where}: its ids must be int64, ascend and end below {size}; d2t[i] = id - i: export again")


def read_vocabulary(path: Path, size: int | None) -> Tensor:
    """The ids of a draft vocabulary.

    Raises:
        ValueError: they are no ascending ids of a vocabulary of `size` tokens.
    """
    try:
        ids = json.loads(path.read_text())["ids"]
        good = bool(ids) and all(type(one) is int for one in ids) and ids == sorted(set(ids)) and ids[0] >= 0
    except (ValueError, KeyError, TypeError):
        good = False
    if not good or (size is not None and ids[-1] >= size):
        raise ValueError(f"{path}: must hold ids in ascending order, all below {size}; export again")
    return torch.tensor(ids)


def engine_vocabulary(
    vocabulary: Tensor, head: Tensor | None, facts: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Tensor]:
    """A draft vocabulary as vLLM and speculators read it: offsets, a mask, and the head's rows."""
    if head is None:
        raise ValueError(
            "vocabulary: this layout stores the head's rows of a draft vocabulary; name the verifier with --verifier"
        )
    ids = vocabulary.cpu()
    mask = torch.zeros(facts["vocab_size"], dtype=torch.bool)
    mask[ids] = True
    return {"d2t": ids - torch.arange(len(ids)), "t2d": mask, "lm_head.weight": head.detach().to("cpu", dtype)}
