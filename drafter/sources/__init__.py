"""Where conversations come from: a file per kind of source, each its own settings."""

from drafter.sources.base import POLICIES, BadRow, BadRows, Conversation, Message, Source
from drafter.sources.files import File
from drafter.sources.hub import Hub
from drafter.sources.self_prompting import SelfPrompting
from drafter.sources.standard_library import StandardLibrary

SOURCES: dict[str, type[Source]] = {
    "standard_library": StandardLibrary,
    "self_prompting": SelfPrompting,
    "file": File,
    "hub": Hub,
}

__all__ = [
    "POLICIES",
    "SOURCES",
    "BadRow",
    "BadRows",
    "Conversation",
    "File",
    "Hub",
    "Message",
    "SelfPrompting",
    "Source",
    "StandardLibrary",
]
