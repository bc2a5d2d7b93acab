"""The pages, their blocks of code and their links, as the tests of documentation read them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    ((?:drafter|python|make|pip|vllm) .*)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PROGRAMS = ("drafter", "python", "make", "pip", "vllm")


@dataclass(frozen=True)
class Block:
    """A piece of code on a page."""

    page: Path
    language: str  # empty, `text` and the like: what a program said
    text: str
    before: str  # the page up to here


def blocks(page):
    """All of a page's code, in order."""
    text = page.read_text()
    found = [(each.start(), each[1], each[2]) for each in FENCE.finditer(text)]
    bare = FENCE.sub(lambda each: " " * len(each[0]), text)
    found += [(each.start(), "bash", each[1]) for each in INDENTED.finditer(bare)]
    return [Block(page, language, code, text[:at]) for at, language, code in sorted(found)]


def commands(text):
    """The commands of a shell block, as words; comments, and what a shell would do besides, are left out."""
    joined = text.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            found.append(words[:end])
            words = words[end + 1 :]
    return found


def links(page):
    """Targets of a page's links that lie in the repository, without what follows a #."""
    text = FENCE.sub("", page.read_text())
    return [link for link in LINK.findall(text) if "://" not in link and not link.startswith("mailto:")]
