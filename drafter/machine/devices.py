"""Where the models run."""

import torch


def choose_device(requested: str) -> str:
    """Turn `auto` into `cuda` where there is one, else `cpu`.

    Raises:
        ValueError: there is no such device here.
    """
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(requested).type
    except RuntimeError:
        raise ValueError(f"verifier.device={requested!r}: no such device; choose auto, cpu or cuda") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"verifier.device={requested!r}: there is no CUDA device here; choose auto or cpu")
    return requested
