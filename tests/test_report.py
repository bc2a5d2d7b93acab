"""Reports: whatever a model wrote stays text, pictures are on the page, colours say what became of each token."""

import json
import re
from html.parser import HTMLParser

import pytest
from conftest import NEW_TOKENS, make_memorising, make_prompts, make_verifier

from drafter.decode import SpeculativeDecoder
from drafter.evaluation import record
from drafter.evaluation.asking import Asked, SuiteRun, slices
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.passages import element, passages, pieces
from drafter.evaluation.report import Page, Picture
from drafter.evaluation.slots import observe_all
from drafter.evaluation.suites import Case, Suite

EVIL = "<script>alert(1)</script>&\"'$x$|"
VOID = {"meta", "link"}


class Tags(HTMLParser):
    """Which elements a page has, and whether they close."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def answered():
    """Prompts of two kinds, one of them of evil, answered with drafts and observed."""
    verifier, drafter = make_verifier("llama"), make_memorising("llama")
    cases = [Case(f"{EVIL}/{at}", (EVIL,), "ab"[at % 2], "en") for at in range(len(make_prompts()))]
    asked = [Asked(case, 1, prompt) for case, prompt in zip(cases, make_prompts(), strict=True)]
    answers = SpeculativeDecoder(verifier, drafter).generate(make_prompts(), NEW_TOKENS, batch_size=3)
    observed = list(observe_all(verifier, drafter, make_prompts(), answers))
    return SuiteRun(asked, answers, Cycles.of(answers, 3), observed)


@pytest.fixture(scope="module")
def saved(answered, tmp_path_factory):
    """An evaluation's folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    verifier, drafter = make_verifier("llama"), make_memorising("llama")
    found = record.figures({EVIL: answered}, verifier, drafter)
    found |= record.facts(EVIL, "tiny-llama", verifier, {EVIL: Suite(name=EVIL)}, {"by": "decoder", "rule": None})
    record.save(found, folder)
    return folder


def test_a_page_needs_nothing_else_and_escapes_all(saved):
    text = (saved / "report.html").read_text()
    assert "<script" not in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.seen.count("svg") == 7  # one of all suites, six of one
    assert "img" not in tags.seen
    assert re.findall(r'(?:src|href)="(?!#|data:)', text) == []
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]+"', "", text)
    assert "tokens per cycle" in text.split("<h2>")[0]  # the finding comes first
    assert text.rindex("<h2>") == text.index("<h2>How this was made")


def test_figures_stand_in_json_and_csv(saved, answered):
    found = json.loads((saved / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert found["all"]["tokens_per_cycle"] == answered.cycles.tokens_per_cycle
    assert len(found["prompts"][EVIL]) == len(answered.asked)
    assert {one["drafts"] for one in found["pays"][EVIL]} >= {"1 in a row", "3 in a row", "a tree of 8"}
    assert (saved / "evaluation.csv").read_text().count("\n") == 1 + len(answered.asked)


def test_tokens_are_coloured_by_what_became_of_them(answered):
    tokenizer, length = make_verifier("llama").tokenizer, 3
    for at, answer in enumerate(answered.answers):
        found = pieces(answered, at, tokenizer)
        kinds = [one["kind"] for one in found]
        assert kinds.count("accepted") == sum(answer.accepted)
        ends = [emitted > kept for emitted, kept in zip(answer.emitted, answer.accepted, strict=True)]
        assert kinds.count("corrected") + kinds.count("bonus") == sum(ends)
        assert "".join(one["text"] for one in found) == tokenizer.decode(answer.token_ids, skip_special_tokens=True)
        seen, place, wasted = answered.observed[at], 0, set()
        for emitted, kept in zip(answer.emitted, answer.accepted, strict=True):
            wasted |= {place + slot + 1 for slot in range(kept + 1, length) if seen.hits[place, slot]}
            place += emitted
        assert {place for place, one in enumerate(found) if one.get("wasted")} == wasted
    shown = passages(answered, tokenizer)
    rates = [one["tokens_per_cycle"] for one in shown]
    assert rates[0] == min(rates)
    assert rates[3] == max(rates)
    assert 'class="accepted' in "".join(element(one, False) for one in shown)
    assert element(shown[0], True).startswith("<details open>")


def test_without_observation_a_page_says_why(answered):
    verifier = make_verifier("llama")
    bare = SuiteRun(answered.asked, answered.answers, answered.cycles)
    found = record.figures({"own": bare}, verifier, make_memorising("llama"))
    assert found["slots"] == {}
    assert found["slots_missing"].startswith("What slots say is not in here")
    assert "pays" not in found


def test_slices_add_up(answered):
    found = slices(answered)
    assert set(found) == {"category"}  # one language, one turn, one range of lengths
    assert sum(one["cycles"] for one in found["category"].values()) == answered.cycles.count
    assert Cycles.together([answered.cycles]) == answered.cycles


def test_markdown_and_pictures_stand_beside_each_other(tmp_path, drawn):
    page = Page("A page")
    page.picture(Picture("line", EVIL, [lambda axes: axes.plot([0, 1], label="a"), lambda axes: axes.set_title(EVIL)]))
    page.table(["a"], [[EVIL]])
    page.save(tmp_path)
    assert (tmp_path / "line.png").read_bytes()[:4] == b"\x89PNG"
    assert "![" in (tmp_path / "report.md").read_text()
    text = (tmp_path / "report.html").read_text()
    assert text.count("<svg") == 2
    assert "var(--ink)" in text
    assert "<script" not in text
    again = Picture("line", EVIL, [lambda axes: axes.plot([0, 1], label="a")]).svgs()
    assert again == Picture("line", EVIL, [lambda axes: axes.plot([0, 1], label="a")]).svgs()
