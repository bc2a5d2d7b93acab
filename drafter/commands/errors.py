"""Which errors are a user's and end in a line, and which are faults of this program and keep their traceback."""

import errno
import logging
import os
import select
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drafter.files import cache_directory

HERE = str(Path(__file__).parent.parent)
OF_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM)  # not of room
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
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what was saved", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and _reader_left():  # `| head` has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left, Python writes at its end
            sys.exit(141)  # as a shell calls it
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
        remedy = "check path and permissions" if error.errno in OF_PATHS else "free space or choose another path"
        kept = str(error.filename or "").startswith(str(cache_directory()))
        more = "; $BLOCK_DRAFTER_CACHE may name another cache folder" if kept else ""
        return f"{error.filename or 'input/output'}: {error.strerror or text}; {remedy}{more}"
    if isinstance(error, ImportError):
        return _missing(error, text)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or ALLOCATOR in text:
        return f"memory is full ({text.split('. ')[0] or 'of this machine'}); lower batch sizes, rows or anchors"
    if type(error).__name__ == "AcceleratorError" or text.startswith(("CUDA error", "No CUDA GPUs", "Found no NVIDIA")):
        return f"the CUDA device failed ({text.split('. ')[0]}); `drafter doctor` says what is found here"
    return None


def _reader_left() -> bool:
    """Whether nobody reads standard output any more."""
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in watched.poll(0))


def _missing(error: ImportError, text: str) -> str | None:
    """What to install, where somebody else's module is missing; a name missing from ours is a fault."""
    if error.name is not None:
        package = error.name.split(".")[0]
        return None if package in ("drafter", "losses") else f"{package}: {text}; install it with pip"
    raised_here = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(HERE)
    return None if raised_here else f"{text}; install what it names with pip"
