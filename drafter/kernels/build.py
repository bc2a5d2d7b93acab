"""The C of this folder as a library: compiled for this processor, kept in the cache, loaded."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from drafter.files import atomically, cache_directory

HERE = Path(__file__).parent
SOURCES = ("attention.c", "layers.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 120.0  # half of one is usual
CHECKSUM = hashlib.sha256().digest_size


def missing() -> str | None:
    """Why there is no library here, or None. Compiling is the probe: a compiler without OpenMP fails it."""
    return _loaded()[1]


def library() -> ctypes.CDLL:
    """The library.

    Raises:
        RuntimeError: there is none; `missing` says why.
    """
    found, reason = _loaded()
    if found is None:
        raise RuntimeError(f"kernels: {reason}")
    return found


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    try:
        compiler = _compiler()
        if compiler is None:
            return None, f"no C compiler is found ({', '.join(COMPILERS)}; set CC)"
        return ctypes.CDLL(str(_built(compiler))), None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines() or [f"exit code {error.returncode}"]
        return None, f"{error.cmd[0]} can't compile it ({said[0]})"
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:  # the last of a CC or a cache that can't be read
        return None, f"can't be compiled or loaded ({error})"


def _compiler() -> list[str] | None:
    named = shlex.split(os.environ.get("CC", ""))
    if named:
        return named
    return next(([found] for name in COMPILERS if (found := shutil.which(name))), None)


def _built(compiler: list[str]) -> Path:
    """The library's file, made unless the same sources, compiler and processor have made it.

    At its end stands its checksum, which loaders do not read: a damaged library would end the process.
    """
    macros = _run([*compiler, *FLAGS, "-dM", "-E", "-x", "c", os.devnull])  # its version, and what the processor can
    digest = hashlib.sha256(macros.encode())
    for path in sorted((*HERE.glob("*.c"), *HERE.glob("*.h"))):
        digest.update(path.read_bytes())
    made = cache_directory() / "kernels" / f"{digest.hexdigest()[:16]}.so"
    if not _whole(made):
        made.parent.mkdir(parents=True, exist_ok=True)
        with atomically(made) as scratch, TemporaryDirectory() as folder:  # some linkers put another file in its place
            linked = Path(folder) / made.name
            _run([*compiler, *FLAGS, "-o", str(linked), *(str(HERE / name) for name in SOURCES), "-lm"])
            content = linked.read_bytes()
            scratch.write_bytes(content + hashlib.sha256(content).digest())
    return made


def _whole(path: Path) -> bool:
    """Whether a library is there as it was written."""
    content = path.read_bytes() if path.is_file() else b""
    return hashlib.sha256(content[:-CHECKSUM]).digest() == content[-CHECKSUM:]


def _run(words: list[str]) -> str:
    ran = subprocess.run(words, capture_output=True, text=True, errors="replace", check=True, timeout=SECONDS)
    return ran.stdout
