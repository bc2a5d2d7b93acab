"""Where a command shall write: looked at before it works, not behind hours of it."""

import os
from argparse import Namespace
from pathlib import Path


def check_places(parsed: Namespace) -> None:
    """Refuse `--json FILE` and `--out DIR` where they can't be written; the folder of FILE is made.

    Raises:
        ValueError: FILE is none that a new one may replace, DIR is a file, or the folder above takes nothing new.
    """
    file, folder = getattr(parsed, "json", None), getattr(parsed, "out", None)
    if file is not None:
        if file.is_symlink() or (file.exists() and not file.is_file()):  # a device would be gone for everybody
            raise ValueError(f"json={str(file)!r}: is a folder, a link or a device; name a file")
        _writable("json", file, file.parent)
        file.parent.mkdir(parents=True, exist_ok=True)
    if folder is not None:
        if folder.is_file() and parsed.command != "regenerate":  # whose answers may be one file
            raise ValueError(f"out={str(folder)!r}: is a file; name a folder")
        _writable("out", folder, folder if folder.is_dir() else folder.parent)


def _writable(name: str, place: Path, folder: Path) -> None:
    """Raise a ValueError unless `folder`, or the nearest above it that is there, takes new files."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ValueError(f"{name}={str(place)!r}: {there} is no folder; name another path")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{name}={str(place)!r}: {there} can't be written; name another path")
