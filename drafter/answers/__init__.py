"""Prompts with the verifier's answers: one Parquet file, or a folder of shards with a manifest; made resumably."""

from drafter.answers.files import SCHEMA, Answer, asked, digest, write
from drafter.answers.reading import Answers, check_origin, open_answers, read
from drafter.answers.store import OpenShard, Store, check_free

__all__ = [
    "SCHEMA",
    "Answer",
    "Answers",
    "OpenShard",
    "Store",
    "asked",
    "check_free",
    "check_origin",
    "digest",
    "open_answers",
    "read",
    "write",
]
