"""Prompts → the verifier's own answers, by the verifier here or by a server: cached, batched and resumable."""

from drafter.regenerate.answering import Answerer, answer_all, regenerate
from drafter.regenerate.recipe import regenerate_recipe

__all__ = ["Answerer", "answer_all", "regenerate", "regenerate_recipe"]
