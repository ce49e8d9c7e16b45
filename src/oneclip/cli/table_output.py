"""Tables on stdout: in colour on a terminal, never cut in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from oneclip.cli.exits import escape_control_characters

BAR_CELLS = 24
EIGHTHS = " ▏▎▍▌▋▊▉█"
UNBOUNDED = 10_000  # width if stdout is not a terminal


class Column(NamedTuple):
    """Column of a table.

    Attributes:
        title: heading.
        style: a colour name of rich.
        right: align to the right.
        optional: leave the column out if the terminal is too narrow.
        whole: never break a cell into lines.
    """

    title: str
    style: str = ""
    right: bool = False
    optional: bool = False
    whole: bool = False


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout. In a narrow terminal, optional columns are left out and cells are folded."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    to_terminal = sys.stdout.isatty()
    width = None if to_terminal or "COLUMNS" in os.environ else UNBOUNDED
    console = Console(width=width, highlight=False, emoji=False, markup=False, soft_wrap=False)
    texts = [[Text(escape_control_characters(cell).replace("\n", "\\n")) for cell in row] for row in rows]
    widths = [
        max([cell_len(column.title), *(cell_len(row[i].plain) for row in texts)]) + 2
        for i, column in enumerate(columns)
    ]
    shown = list(range(len(columns)))
    for i in [i for i, column in enumerate(columns) if column.optional]:
        if sum(widths[i] for i in shown) - 2 > console.width:
            shown.remove(i)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i in shown:
        column = columns[i]
        table.add_column(
            column.title,
            style=column.style or None,
            justify="right" if column.right else "left",
            overflow="fold",
            no_wrap=column.right or column.whole or column.optional,
        )
    for row in texts:
        table.add_row(*(row[i] for i in shown))
    if to_terminal:
        console.print(table)
    else:
        with console.capture() as text:
            console.print(table, crop=False)
        print("\n".join(line.rstrip() for line in text.get().splitlines()))


def draw_bar(share: float, cells: int = BAR_CELLS) -> str:
    """Draw a share between 0 and 1 as a bar, in eighths of a cell if stdout can show them."""
    if "utf" not in (sys.stdout.encoding or "").lower():
        return "#" * round(share * cells)
    whole, eighths = divmod(round(share * cells * 8), 8)
    return "█" * whole + EIGHTHS[eighths].strip()


def format_percent(share: float) -> str:
    """Format a share between 0 and 1 as a percentage; a small share is not rounded to zero."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
