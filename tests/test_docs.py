"""What the pages say of recipes is true."""

import re
from dataclasses import fields

from conftest import ROOT

from drafter.config import DataConfig, load
from drafter.sources import SOURCES

PAGE = (ROOT / "docs/data.md").read_text()


def test_the_recipe_of_the_page_loads(tmp_path):
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "qwen3.yaml").write_text(recipe)
    config = load(tmp_path / "qwen3.yaml")
    assert config.data.sources == [SOURCES["file"](path="prompts.jsonl")]


def test_the_page_names_every_key_of_data():
    table = PAGE.split("## All keys of `data`")[1]
    named = set(re.findall(r"`([a-z_]+)(?:\.\*)?`", table.replace("|\n", "\n")))
    assert {each.name for each in fields(DataConfig)} <= named


def test_the_page_names_every_setting_of_every_source():
    for kind, source in SOURCES.items():
        (line,) = re.findall(rf"^\| `{kind}` \|(.*)$", PAGE, re.MULTILINE)
        assert {each.name for each in fields(source)} - {"kind"} <= set(re.findall(r"`(\w+)`", line))
