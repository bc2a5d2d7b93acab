"""Reports in a real browser: an empty console, every picture seen, readable on a phone and on a desk, and in the dark.

Skipped by name where there is no `chromium` (a system package).
"""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest
from conftest import ROOT
from test_frontier import a_point
from test_report import answered, saved  # noqa: F401
from test_text_runs import finished, texts  # noqa: F401

from drafter.evaluation import frontier
from drafter.evaluation.cycles import Cycles
from drafter.evaluation.frontier.ways import CONTROL, EXACT
from drafter.evaluation.grid import Cell
from drafter.evaluation.measured import Measured
from drafter.evaluation.report.benchmarked import benchmark_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.usefixtures("drawn"),
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; install the system package"),
]
PROBE = """
<script>
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("svg")].map(one => {
    const box = one.getBoundingClientRect();
    const sizes = [...one.querySelectorAll("text")].map(each => each.getBoundingClientRect().height);
    const least = Math.min(...sizes);
    return {name: one.dataset.picture, width: box.width, height: box.height, right: box.right, text: least};
  });
  const light = color => color.match(/[0-9]+/g).slice(0, 3).reduce((sum, each) => sum + Number(each), 0) / 3;
  const body = getComputedStyle(document.body);
  const reach = [...document.querySelectorAll(".scroll, summary")].map(one => {
    one.focus();
    return document.activeElement === one;
  });
  parent.postMessage(JSON.stringify({
    wide: document.documentElement.scrollWidth - innerWidth, width: innerWidth, seen: seen,
    paper: light(body.backgroundColor), ink: light(body.color),
    drawn: light(getComputedStyle(document.querySelector("svg text")).fill), reach: reach,
  }), "*");
});
</script>
"""


FRAME = """<!doctype html><meta charset="utf-8"><style>:root{color-scheme:light dark}body{margin:0}</style>
<script>addEventListener("message", told => { document.title = told.data; });</script>
<iframe src="SOURCE" style="border:0;width:WIDTHpx;height:900px"></iframe>
"""  # a browser's own window is never as narrow as a phone


def browse(page, folder, width, dark):
    """What a browser says of a page: (its console's lines, what the probe measured)."""
    probed = folder / f"probed_{width}_{dark}.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("SOURCE", probed.name).replace("WIDTH", str(width)))
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    words += [
        "--window-size=1500,950",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=2000",
    ]
    words += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([*words, frame.as_uri()], capture_output=True, text=True, timeout=120)
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return said, json.loads(unescape(found[1]))


def save_map(path):
    """A map with every kind of way."""
    rules = ("static_ensemble:verifier_weight=0", "lenient:lenience=0.5", "typical_acceptance", "variation_budget:b=1")
    points = [a_point(f"way {at}", 1.0 + at / 4, 0.9 - at / 9, rule) for at, rule in enumerate(rules)]
    for family in (EXACT, CONTROL):
        counts = points[0].counts
        points.append(frontier.Point(frontier.Way(family, family, "speculative_sampling"), counts, 0.5, 9.0))
    frontier.map_page(points, "exact_match", {}, {"drafter": "own"}, "theory").save_html(path)


def save_speed(path):
    """A benchmark of two suites and two batch sizes."""
    cells = [
        Cell(suite, 0.0, size, drafts, Measured("", Cycles.of([]), 9, 5, 0.1), speed, ideal, None, 1.0, 1.1, 0.1, None)
        for suite in ("one", "two")
        for size in (1, 8)
        for drafts, speed, ideal in (("0", 1.0, None), ("4", 1.2 / size, 1.3), ("tree 8", 1.3, None))
    ]
    benchmark_page(cells, {"drafter": "own"}).save_html(path)


@pytest.fixture
def page(request, tmp_path):
    """A report by its name, made only if it is asked for."""
    path = tmp_path / "report.html"
    if request.param in ("map", "speed"):
        {"map": save_map, "speed": save_speed}[request.param](path)
        return path
    if request.param == "ablation":
        return ROOT / "docs/results/losses/report.html"
    if request.param == "distillation":
        return request.getfixturevalue("finished")[0].directory / "report.html"
    return request.getfixturevalue({"run": "finished_run", "evaluation": "saved"}[request.param]) / "report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("page", ["evaluation", "ablation", "run", "distillation", "map", "speed"], indirect=True)
def test_a_report_is_read_in_a_browser(page, width, dark, tmp_path):
    said, found = browse(page, tmp_path, width, dark)
    assert said == []
    assert found["width"] == width
    assert found["wide"] <= 0, "the page scrolls sideways"
    assert len(found["seen"]) == page.read_text().count("<svg")
    for one in found["seen"]:
        assert one["width"] > 250, one
        assert one["height"] > 80, one
        assert one["right"] <= width, one
        assert one["text"] >= 8, one  # pixels of the smallest line of text
    assert all(found["reach"]), "something can't be reached by the keyboard"
    assert len(found["reach"]) >= 2
    assert (found["paper"] < 60) == dark
    assert abs(found["paper"] - found["ink"]) > 150
    assert abs(found["paper"] - found["drawn"]) > 150


def test_the_probe_sees_what_is_wrong(saved, tmp_path):  # noqa: F811
    page = tmp_path / "wrong.html"
    wrong = '<script>throw new Error("planted")</script><p style="width:3000px">wide</p></main>'
    page.write_text((saved / "report.html").read_text().replace("</main>", wrong))
    said, found = browse(page, tmp_path, 400, False)
    assert any("planted" in line for line in said)
    assert found["wide"] > 1000
