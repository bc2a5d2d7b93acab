"""The frozen verifier: the model and its attention, where it is found, its tokenizer and its chat template."""

from drafter.verifier.body import Verifier

__all__ = ["Verifier"]
