"""A report as one HTML file that needs nothing else, and, where it is wanted, as Markdown with pictures beside it."""

import html
from collections.abc import Sequence
from pathlib import Path

from drafter.evaluation.report.picture import Picture
from drafter.files import atomically

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--line:#c8ccd1;--soft:#f3f4f6;--good:#b7e4c0;--bad:#ffd0b8;
--spare:#2f6fb0}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--paper:#15181c;--line:#40464e;--soft:#20252b;--good:#1f5c33;
--bad:#7a3b1e;--spare:#8ec1f0}}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:76rem;margin:0 auto;
padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem}
h1,h2,p,li,summary{overflow-wrap:anywhere}
.lead{font-size:1.15rem;font-weight:600}
.scroll{overflow-x:auto;margin:1rem 0}
:focus-visible{outline:3px solid var(--spare);outline-offset:2px}
table{border-collapse:collapse;font-size:.9rem}
td,th{border:1px solid var(--line);padding:.25rem .6rem;text-align:left;vertical-align:top}
th{background:var(--soft)}
.pictures{display:flex;flex-wrap:wrap;gap:1rem;margin:1rem 0}
.pictures svg{flex:1 1 20rem;min-width:0;max-width:34rem;height:auto}
details{border:1px solid var(--line);border-radius:.4rem;padding:.5rem .8rem;margin:.6rem 0}
.tokens{white-space:pre-wrap;overflow-wrap:anywhere;font:.85rem/1.7 ui-monospace,monospace;margin:.6rem 0 0}
.accepted{background:var(--good)}
.corrected{background:var(--bad)}
.wasted{text-decoration:underline wavy var(--spare)}
""".strip()


class Page:
    """A report being written in Markdown and HTML at once; whatever it is given as text stays text."""

    def __init__(self, title: str):
        self.title = title
        self.markdown, self.html = [f"# {title}"], [f"<h1>{html.escape(title)}</h1>"]
        self.pictures: list[Picture] = []

    def heading(self, text: str) -> None:
        self.markdown.append(f"## {text}")
        self.html.append(f"<h2>{html.escape(text)}</h2>")

    def lead(self, text: str) -> None:
        """What was found, in a sentence."""
        self.markdown.append(f"**{text}**")
        self.html.append(f'<p class="lead">{html.escape(text)}</p>')

    def text(self, text: str) -> None:
        self.markdown.append(text)
        self.html.append(f"<p>{html.escape(text)}</p>")

    def picture(self, *pictures: Picture) -> None:
        """Their panels side by side on the page itself; in Markdown, the files that they are saved in."""
        self.pictures += pictures
        self.markdown += [f"![{one.text}]({one.name}.png)" for one in pictures]
        panels = [panel for one in pictures for panel in one.svgs()]
        self.html.append("\n".join(['<div class="pictures">', *panels, "</div>"]))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        self.markdown.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        label = html.escape(head[0] or "table")
        self.html.append(f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{table}</div>')

    def passage(self, title: str, text: str) -> None:
        """A text that was written somewhere, line by line; closed on the page until it is asked for."""
        self.markdown.append("\n".join([f"{title}:", "", *(f"    {line}" for line in text.splitlines())]))
        summary = f"<summary>{html.escape(title)}</summary>"
        self.html.append(f'<details>{summary}<p class="tokens">{html.escape(text)}</p></details>')

    def element(self, element: str) -> None:
        """HTML as it is, in the HTML alone; its maker has escaped what is in it."""
        self.html.append(element)

    def save_html(self, path: Path) -> None:
        title = html.escape(self.title)
        head = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            '<meta name="viewport" content="width=device-width,initial-scale=1">\n<link rel="icon" href="data:,">\n'
            f"<style>\n{STYLE}\n</style></head><body><main>"
        )
        with atomically(path) as scratch:
            scratch.write_text("\n".join([head, *self.html, "</main></body></html>"]) + "\n")

    def save(self, directory: Path) -> None:
        """`report.html`, and `report.md` with its pictures."""
        self.save_html(directory / "report.html")
        for picture in self.pictures:
            picture.save(directory)
        with atomically(directory / "report.md") as scratch:
            scratch.write_text("\n\n".join(self.markdown) + "\n")
