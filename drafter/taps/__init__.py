"""Taps of training rows: made by a verifier in each step, once and kept on disk, or elsewhere. Pick a `TapSource`."""

from drafter.taps.cache import TapCache
from drafter.taps.elsewhere import States, TapsElsewhere
from drafter.taps.engine import StateServer
from drafter.taps.files import StateFiles
from drafter.taps.source import LocalTaps, TapSource

__all__ = ["LocalTaps", "StateFiles", "StateServer", "States", "TapCache", "TapSource", "TapsElsewhere"]
