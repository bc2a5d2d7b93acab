"""Taps of training rows: made by a verifier in each step, once and kept on disk, or elsewhere. Pick a `TapSource`."""

from drafter.taps.cache import TapCache
from drafter.taps.files import TapFiles
from drafter.taps.source import LocalTaps, TapSource

__all__ = ["LocalTaps", "TapCache", "TapFiles", "TapSource"]
