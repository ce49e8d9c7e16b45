"""HTML report of a run as one self-contained page: sections, tables, images."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ddd }
table { border-collapse: collapse } td, th { padding: .15em .9em .15em 0; text-align: left; vertical-align: top }
th { font-weight: 600 } td.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% } code, pre { font-size: .9em; overflow-wrap: anywhere; white-space: pre-wrap }
"""


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        title: plain text.
        body: HTML, made with `html_table`, `html_image` and `html_paragraph`.
    """

    title: str
    body: str


def render_page(title: str, sections: Iterable[Section]) -> str:
    """Render the whole page.

    Args:
        title: plain text.
        sections: in order.
    """
    parts = "".join(f"<h2>{escape(part.title)}</h2>\n{part.body}\n" for part in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n{parts}</body></html>\n"
    )


def html_paragraph(text: str) -> str:
    """Format plain text as an HTML paragraph."""
    return f"<p>{escape(text)}</p>"


def html_table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Format rows of plain values as an HTML table, with numbers aligned right.

    Args:
        rows: of cells.
        header: column titles, if any.
    """
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr>" if header else ""
    return f"<table>{head}{''.join(f'<tr>{_cells(row)}</tr>' for row in rows)}</table>"


def html_image(png: bytes, alt: str) -> str:
    """Embed a PNG image into the page.

    Args:
        png: content of the PNG file.
        alt: text for readers who cannot see the image.
    """
    content = base64.b64encode(png).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{content}">'


def settings_section(toml: str) -> Section:
    """Show the settings of a run as its TOML file has them."""
    return Section("Settings", f"<pre>{escape(toml)}</pre>")


def curves_section(plots: Mapping[str, bytes]) -> Section:
    """Show the curves of a run.

    Args:
        plots: PNG content by name.
    """
    images = [f"<p>{html_image(png, name.replace('_', ' '))}</p>" for name, png in plots.items()]
    return Section("Curves", "\n".join(images))


def environment_section(environment: Mapping[str, Any]) -> Section:
    """Show the environment of a run."""
    rows = []
    for name, value in environment.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {each}" for key, each in value.items())
        elif isinstance(value, list):
            value = " ".join(map(str, value))
        rows.append((name, str(value)))
    return Section("Environment", html_table(rows))


def _cells(row: Sequence[Any]) -> str:
    return "".join(
        f'<td class="number">{_number(cell)}</td>'
        if isinstance(cell, int | float)
        else f"<td>{escape(str(cell))}</td>"
        for cell in row
    )


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
