"""Taps of rows, made by the verifier once and kept on disk: later epochs do not pay for it."""

from drafter.taps.cache import TapCache

__all__ = ["TapCache"]
