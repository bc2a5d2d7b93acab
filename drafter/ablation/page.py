"""A report as Markdown and as HTML, written at once."""

import html
from collections.abc import Sequence
from pathlib import Path


class Page:
    """A report being written in Markdown and HTML at once."""

    def __init__(self, title: str):
        self.markdown, self.html = [f"# {title}"], [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self.markdown.append(f"## {text}")
        self.html.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.markdown.append(text)
        self.html.append(f"<p>{html.escape(text)}</p>")

    def picture(self, name: str, text: str) -> None:
        self.markdown.append(f"![{text}]({name})")
        self.html.append(f'<img src="{html.escape(name)}" alt="{html.escape(text)}">')

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [head, ["---"] * len(head), *rows]
        cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
        self.markdown.append("\n".join(f"| {' | '.join(line)} |" for line in cells))
        top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        self.html.append(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")

    def save(self, directory: Path) -> None:
        style = (
            "body{font:15px/1.5 sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}img{max-width:100%}"
            "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
        )
        head = f'<!doctype html><meta charset="utf-8"><title>Ablation</title><style>{style}</style>'
        (directory / "report.md").write_text("\n\n".join(self.markdown) + "\n")
        (directory / "report.html").write_text("\n".join([head, *self.html]) + "\n")
