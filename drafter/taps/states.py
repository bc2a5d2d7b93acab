"""One file of hidden states, as vLLM writes it and speculators keeps it.

`hidden_states` [S, layers, D] and `token_ids` [S] in safetensors; in float8_e4m3fn with `hidden_states_scales`, float32
[S, 1, 1]. A writer holds an exclusive lock on `<file>.lock` until the file is whole; a reader takes a shared one, then
removes it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

STATES, IDS, SCALES = "hidden_states", "token_ids", "hidden_states_scales"
POLL = 0.005  # seconds between looks at a lock
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


class Unwritten(ValueError):
    """A file is missing, cut off or short: an engine may write it again."""


def token_ids(path: Path) -> list[int]:
    """The ids that a file holds states of.

    Raises:
        ValueError: it is missing, cut off, or of something else; names it.
    """
    return _tensors(path, (IDS,))[IDS].tolist()


def read_states(path: Path, ids: Sequence[int], layers: int, width: int) -> Tensor:
    """Hidden states of a row, float, [S, layers, D].

    Args:
        ids: of the row; layers, width: what the file has to hold.
    Raises:
        Unwritten: it is missing, cut off, or of fewer tokens.
        ValueError: it is of something else, of other tokens, layers or width, or has numbers that are none; one line
            that names it.
    """
    found = _tensors(path, (STATES, IDS, SCALES))
    states, theirs = found[STATES], found[IDS].tolist()
    if len(theirs) < len(ids) and theirs == list(ids[: len(theirs)]):
        said = f"holds states of {len(theirs)} of the row's {len(ids)} tokens"
        raise _wrong(path, said, "serve without prefix caching and chunked prefill", Unwritten)
    if theirs != list(ids):
        pairs = enumerate(zip(theirs, ids, strict=False))
        at = next((at for at, (there, here) in pairs if there != here), min(len(theirs), len(ids)))
        raise _wrong(path, f"holds other token ids than the row, from token {at} on", "another tokenizer or template?")
    if states.ndim != 3 or states.shape[0] != len(theirs):
        said = f"holds states of shape {list(states.shape)} for {len(theirs)} tokens"
        raise _wrong(path, said, "serve without prefix caching and chunked prefill")
    if states.shape[1] != layers:
        raise _wrong(path, f"holds {states.shape[1]} layers, not {layers}", "say which, or serve those of this recipe")
    if states.shape[2] != width:
        raise _wrong(path, f"is {states.shape[2]} wide, the verifier {width}", "name files of this verifier")
    if states.dtype is torch.float8_e4m3fn and SCALES in found:
        if found[SCALES].shape != (len(ids), 1, 1):
            raise _wrong(path, f"holds scales of shape {list(found[SCALES].shape)}", "write one for each token")
        states = states.float() * found[SCALES].float()
    if states.dtype not in FLOATS:
        raise _wrong(path, f"is {states.dtype} without scales", "write bfloat16, or float8_e4m3fn with its scales")
    if not states.isfinite().all():
        token, layer = (~states.isfinite()).any(-1).nonzero()[0].tolist()
        raise _wrong(
            path, f"has NaN or infinite numbers, first at token {token}, layer {layer} of it", "write it again"
        )
    return states


def _tensors(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Those of the named tensors that a file has; it must have all but the scales."""
    lock = _wait_for_writer(path)
    try:
        with safe_open(path, "pt") as file:
            held = set(file.keys())
            absent = [name for name in names if name not in held and name != SCALES]
            if absent:
                what = f"lacks {', '.join(absent)} (it holds {', '.join(sorted(held)) or 'nothing'})"
                raise _wrong(path, what, "name a folder of hidden states")
            found = {name: file.get_tensor(name) for name in names if name in held}
    except FileNotFoundError:
        raise _wrong(path, "is gone", "let the engine write it again", Unwritten) from None
    except (SafetensorError, OSError) as error:
        reason = str(error).splitlines()[0]
        said = f"is cut off or no safetensors file ({reason})"
        raise _wrong(path, said, "let the engine write it again", Unwritten) from None
    finally:
        if lock is not None:
            _locked_path(path).unlink(missing_ok=True)
            os.close(lock)
    if found[IDS].ndim != 1:
        raise _wrong(path, f"holds token ids of shape {list(found[IDS].shape)}", "name a folder of hidden states")
    return found


def finished(path: Path, seconds: float, given_up: Callable[[], bool] = lambda: False) -> bool:
    """Whether a file's writer lets go of it within so many seconds, or has left no lock."""
    deadline = time.monotonic() + seconds
    with suppress(FileNotFoundError):
        handle = os.open(_locked_path(path), os.O_RDONLY)
        try:
            while time.monotonic() < deadline and not given_up():
                with suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return True
                time.sleep(POLL)
            return False
        finally:
            os.close(handle)
    return True


def _wait_for_writer(path: Path) -> int | None:
    """Wait until a file is whole; returns the handle that holds its lock, None where nobody left one."""
    with suppress(FileNotFoundError):
        handle = os.open(_locked_path(path), os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_SH)
        return handle
    return None


def _locked_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _wrong(path: Path, what: str, remedy: str, kind: type[ValueError] = ValueError) -> ValueError:
    return kind(f"hidden states: {path} {what}; {remedy}")
