"""Which errors are a user's and end in a line, and which are faults of this program and keep their traceback."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = str(Path(__file__).parent.parent)
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"
DEBUG = "BLOCK_DRAFTER_DEBUG"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program in one line where what went wrong is a user's to mend; `$BLOCK_DRAFTER_DEBUG` shows it whole."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was saved", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        line = message(error)
        if line is None or os.environ.get(DEBUG):
            raise
        sys.exit(f"error: {line}")


def message(error: BaseException) -> str | None:
    """The line that tells a user what to mend; None for a fault of this program.

    Boundaries (files, settings, models, servers) raise ValueErrors. Beside these, what the system refuses is a user's,
    a package that is not installed, memory that is full, a device that fails.
    """
    text = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return text
    if isinstance(error, OSError):
        return f"{error.filename or 'input/output'}: {error.strerror or text}; free space or choose another path"
    if isinstance(error, ImportError):
        return _missing(error, text)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or ALLOCATOR in text:
        return f"memory is full ({text.split('. ')[0] or 'of this machine'}); lower batch sizes, rows or anchors"
    if type(error).__name__ == "AcceleratorError" or text.startswith(("CUDA error", "No CUDA GPUs", "Found no NVIDIA")):
        return f"the CUDA device failed ({text.split('. ')[0]}); `drafter doctor` says what is found here"
    return None


def _missing(error: ImportError, text: str) -> str | None:
    """What to install, where somebody else's module is missing; a name missing from ours is a fault."""
    if error.name is not None:
        package = error.name.split(".")[0]
        return None if package in ("drafter", "losses") else f"{package}: {text}; install it with pip"
    raised_here = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(HERE)
    return None if raised_here else f"{text}; install what it names with pip"
