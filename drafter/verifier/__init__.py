"""The frozen verifier: its head and its body, where it is found, its tokenizer and its chat template."""

from drafter.verifier.body import Verifier
from drafter.verifier.head import VerifierHead

__all__ = ["Verifier", "VerifierHead"]
