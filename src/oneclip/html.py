"""Self-contained HTML pages: the frame, colours for light and dark screens and for paper, and tables."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6a6a70; --page: #fff; --card: #f4f4f6; --line: #d9d9de;
  --bar: #3478c6 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf0; --soft: #a0a0a8; --page: #161618; --card: #232327; --line: #3a3a40; --bar: #6aa5ea }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem; font: 15px/1.45 system-ui, sans-serif; color: var(--ink);
  background: var(--page) }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; overflow-wrap: anywhere }
header p, footer p { color: var(--soft); margin: 0 0 1.25rem; overflow-wrap: anywhere }
footer { margin-top: 1rem }
table { border-collapse: collapse }
td, th { padding: .15rem .9rem .15rem 0; text-align: left; vertical-align: top }
th { font-weight: 600 }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
img { max-width: 100% }
code, pre { font-size: .9em; overflow-wrap: anywhere; white-space: pre-wrap }
.soft { color: var(--soft) }
.bar { height: .3rem; background: var(--bar); border-radius: .15rem; min-width: 1px; print-color-adjust: exact;
  -webkit-print-color-adjust: exact }
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --card: #fff; --line: #bbb; --bar: #3478c6 }
  body { padding: 0; font-size: 10px }
}
"""


def render_page(title: str, body: str, style: str = "") -> str:
    """Render a page that loads nothing and runs no script.

    Args:
        title: plain text.
        body: HTML.
        style: CSS after `STYLE`, which it may change.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style></head>\n<body>{body}</body></html>\n"
    )


def html_table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Format rows of plain values as an HTML table, with numbers aligned right.

    Args:
        rows: of cells.
        header: column titles, if any.
    """
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in header)}</tr>" if header else ""
    return f"<table>{head}{''.join(f'<tr>{_cells(row)}</tr>' for row in rows)}</table>"


def data_address(content: bytes, media_type: str = "image/jpeg") -> str:
    """Return the content of a file as an address for a page that needs no other files."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _cells(row: Sequence[Any]) -> str:
    return "".join(
        f'<td class="number">{_number(cell)}</td>'
        if isinstance(cell, int | float)
        else f"<td>{escape(str(cell))}</td>"
        for cell in row
    )


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
