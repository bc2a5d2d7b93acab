"""Taps of training rows: made by a verifier in each step, or once and kept on disk. Pick a `TapSource`."""

from drafter.taps.cache import TapCache
from drafter.taps.source import LocalTaps, TapSource

__all__ = ["LocalTaps", "TapCache", "TapSource"]
