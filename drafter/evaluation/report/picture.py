"""A picture: panels that are drawn once, as SVG that follows a page's colours, or as one PNG beside Markdown."""

import html
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH, HEIGHT, COLUMNS = 4.6, 3.2, 3  # inches of a panel, of which a phone shows one in a row; panels of a PNG's row
INK = "#10203f"  # stands for the colour of the page's text until the SVG is on the page
SHARED: Any = {"font.size": 9.0, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
ON_PAGE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor"), "none"),
}


@dataclass(frozen=True)
class Picture:
    """Panels of one kind.

    Attributes:
        name: its file's, without suffix.
        text: what it shows, in words.
        panels: what draws each, in `ink()` and in colours that are seen on white and on black.
        height: of a panel, in inches.
    """

    name: str
    text: str
    panels: Sequence[Callable[[Axes], None]]
    height: float = HEIGHT

    def svgs(self) -> list[str]:
        """Every panel as an SVG element of its own, text as text."""
        found = []
        for number, draw in enumerate(self.panels):
            with matplotlib.rc_context(SHARED | ON_PAGE | {"svg.hashsalt": f"{self.name}{number}"}):
                figure = Figure(figsize=(WIDTH, self.height), layout="constrained")
                FigureCanvasSVG(figure)
                draw(figure.add_subplot())
                file = io.StringIO()
                figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Type": None})
            found.append(_element(file.getvalue(), self.text, f"{self.name}{number}"))
        return found

    def save(self, directory: Path) -> None:
        """All panels in one PNG."""
        columns = min(len(self.panels), COLUMNS)
        rows = math.ceil(len(self.panels) / columns)
        with matplotlib.rc_context(SHARED):
            figure = Figure(figsize=(WIDTH * columns, self.height * rows), layout="constrained")
            FigureCanvasAgg(figure)
            grid = list(figure.subplots(rows, columns, squeeze=False).flat)
            for axes in grid:
                axes.set_axis_off()
            for axes, draw in zip(grid, self.panels, strict=False):
                axes.set_axis_on()
                draw(axes)
            figure.savefig(directory / f"{self.name}.png", dpi=110)


def ink() -> str:
    """The colour of text and of lines that carry no meaning by theirs."""
    return matplotlib.rcParams["text.color"]


def _element(document: str, text: str, name: str) -> str:
    """The SVG element of a document: scalable, with a name for those who don't see it, without what a page has once."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', lambda path: path[0].replace("\n", " "), svg)
    used = set(re.findall(r"""(?:url\(#|href="#)([^)"]+)""", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    about = f'role="img" aria-label="{html.escape(text)}" data-picture="{html.escape(name)}"'
    svg = svg.replace("<svg", f"<svg {about}", 1)
    return re.sub(r"\s*\n\s*", "\n", svg.replace(INK, "var(--ink)")).strip()
