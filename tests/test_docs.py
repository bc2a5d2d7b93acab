"""What the pages say of recipes is true; their links lead somewhere; the site shows every page."""

import re
from dataclasses import fields

import pytest
import yaml
from conftest import ROOT
from pages import PAGES, blocks, links

from drafter.config import DataConfig, load
from drafter.sources import SOURCES

DATA = ROOT / "docs/data.md"
RESULTS = sorted((ROOT / "docs/results").glob("**/README.md"))


def name(page):
    return page.relative_to(ROOT).as_posix()


def anchors(page):
    """The names of a page's headings, as links write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *RESULTS], ids=name)
def test_links_lead_somewhere(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{link}: there is no {there}"
        assert not anchor or anchor in anchors(there), f"{link}: no such heading"


def pages_of(nav):
    """Every page of a nav, in order."""
    for entry in nav:
        for inner in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [inner] if isinstance(inner, str) else pages_of(inner)


def test_the_site_shows_every_page():
    named = list(pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    shown = sorted([*(ROOT / "docs").glob("*.md"), *RESULTS])
    assert sorted(named) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in shown)


def test_the_readme_is_short_and_names_every_page():
    assert len((ROOT / "README.md").read_text().splitlines()) < 120
    linked = {(ROOT / link).resolve() for link in links(ROOT / "README.md")}
    aside = {"answers.md", "api.md", "extending.md"}  # reached from other pages
    assert {page for page in (ROOT / "docs").glob("*.md") if page.name not in aside} <= linked


@pytest.mark.parametrize("page", ["README.md", "docs/losses.md"])
def test_pages_quote_results_as_they_stand(page):
    """Gains with their intervals, as a page of results has them; those are recomputed from the CSV files."""
    quoted = re.findall(r"[+-][\d.]+ % \[[^\]]+\]", (ROOT / page).read_text())
    there = " ".join(page.read_text() for page in RESULTS).replace("**", "")
    assert quoted
    assert [one for one in quoted if one not in there] == []


def test_pages_speak_in_fences():
    """A fence says what it holds, or nothing where it is what a program said."""
    known = {"", "text", "bash", "python", "yaml", "json"}
    assert {each.language for page in PAGES for each in blocks(page)} <= known


def test_the_recipe_of_the_page_on_data_loads(tmp_path):
    (recipe,) = [each.text for each in blocks(DATA) if each.language == "yaml"]
    (tmp_path / "qwen3.yaml").write_text(recipe)
    config = load(tmp_path / "qwen3.yaml")
    assert config.data.sources == [SOURCES["file"](path="prompts.jsonl")]


def test_the_page_names_every_key_of_data():
    table = DATA.read_text().split("## All keys of `data`")[1]
    named = set(re.findall(r"`([a-z_]+)(?:\.\*)?`", table.replace("|\n", "\n")))
    assert {each.name for each in fields(DataConfig)} <= named


def test_the_page_names_every_setting_of_every_source():
    for kind, source in SOURCES.items():
        (line,) = re.findall(rf"^\| `{kind}` \|(.*)$", DATA.read_text(), re.MULTILINE)
        assert {each.name for each in fields(source)} - {"kind"} <= set(re.findall(r"`(\w+)`", line))
