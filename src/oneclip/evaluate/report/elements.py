"""HTML elements of the report: numbers in percent, tables of models, bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

MISSING = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share as percent without its sign: 0.8125 becomes "81.2"; "–" if it is not defined."""
    return MISSING if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"


def signed_percent(value: float | None) -> str:
    """Format a difference of shares in percentage points, with a sign."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{100 * value:+.1f}".replace("-", "−")


def interval(bounds: Sequence[float | None] | None) -> str:
    """Format an interval of shares in percent; "" if there is none."""
    if bounds is None or any(bound is None or math.isnan(bound) for bound in bounds):
        return ""
    low, high = bounds
    return f"{percent(low)} to {percent(high)}"


def signed_interval(low: float, high: float) -> str:
    """Format an interval of differences in percentage points."""
    return "" if math.isnan(low) else f"{signed_percent(low)} to {signed_percent(high)}"


def metric_name(name: str) -> str:
    """Write the name of a metric for people: "mean_per_class_recall" becomes "mean per class recall"."""
    return "calibration error (ECE)" if name == "ece" else name.replace("_", " ")


def count(number: int, what: str) -> str:
    """Format a number of things: "1 image", "1,000 images"."""
    return f"{number:,} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


def cell(content: str, below: str = "", css: str = "") -> str:
    """Format a cell with a number and small text below it; both are HTML."""
    small = f"<small>{below}</small>" if below else ""
    return f'<td class="number{f" {css}" if css else ""}">{content}{small}</td>'


def text_cell(text: str) -> str:
    """Format a cell of plain text."""
    return f"<td>{escape(text)}</td>"


def row(name: str, cells: Iterable[str], below: str = "") -> str:
    """Format a row of a table: its plain name, and cells of HTML."""
    small = f"<small>{escape(below)}</small>" if below else ""
    return f'<tr><th scope="row">{escape(name)}{small}</th>{"".join(cells)}</tr>\n'


def table(
    header: Sequence[str], rows: Iterable[str], caption: str = "", text_columns: Sequence[int] = (0,)
) -> str:
    """Format a table that scrolls sideways on a narrow screen.

    Args:
        header: column titles, plain text.
        rows: made by `row`.
        caption: plain text above the table.
        text_columns: positions of the columns that are not numbers.
    """
    titles = "".join(
        f'<th scope="col"{"" if i in text_columns else " class=number"}>{escape(name)}</th>'
        for i, name in enumerate(header)
    )
    above = f'<p class="caption">{escape(caption)}</p>' if caption else ""
    return (
        f'{above}<div class="scroll"><table><thead><tr>{titles}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def bar_cell(value: float | None) -> str:
    """Format a share as a cell with a bar and its percentage."""
    if value is None or math.isnan(value):
        return f"<td>{MISSING}</td>"
    return (
        f'<td><div class="label-bar"><div><div class="bar" style="width:{100 * value:.1f}%"></div></div>'
        f"<span>{percent(value)}</span></div></td>"
    )


def folded(title: str, body: str, *, is_open: bool = False, is_long: bool = False) -> str:
    """Put HTML into a part that can be opened and closed; on paper it is open, unless it is long."""
    attributes = (" open" if is_open else "") + (" class=long" if is_long else "")
    return f"<details{attributes}><summary>{escape(title)}</summary>{body}</details>\n"
