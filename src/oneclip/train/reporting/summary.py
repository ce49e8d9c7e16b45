"""Summary of a run: its plots and its HTML report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from oneclip.errors import MissingExtraError
from oneclip.html import html_table
from oneclip.train.reporting.html_page import (
    Section,
    curves_section,
    environment_section,
    html_paragraph,
    render_page,
    settings_section,
)
from oneclip.train.reporting.metrics import read_metrics
from oneclip.train.reporting.plots import draw_plots
from oneclip.train.run_dir import RunDir


def write_summary(
    folder: RunDir,
    state: str,
    sections: Sequence[Section] = (),
    evaluation: Mapping[str, float] | None = None,
) -> list[str]:
    """Write `plots/` and `report.html` from the files of the folder.

    Args:
        folder: of the run.
        state: how the run ended, in one sentence.
        sections: more sections, shown before settings and environment.
        evaluation: metrics of the weights in `model/`, if any.

    Returns:
        Notes on what is missing, and why.

    Raises:
        OutputError: if they cannot be written.
    """
    lines, notes = read_metrics(folder.metrics), []
    try:
        plots = draw_plots(lines)
    except MissingExtraError as error:
        plots = {}
        notes.append(f"{folder.plots} was not written: {error}")
    for name, content in plots.items():
        folder.write_bytes(folder.plots / f"{name}.png", content)
    held_out = [(f"held-out {_words(name)}", value) for name, value in (evaluation or {}).items()]
    parts = [Section("Result", html_paragraph(state) + html_table(held_out))]
    parts.append(Section("Last step of the training", html_table(_rows(lines))))
    parts += [curves_section(plots)] if plots else []
    parts += sections
    if folder.config.is_file():
        parts.append(settings_section(folder.config.read_text(encoding="utf-8")))
    if folder.environment.is_file():
        starts = json.loads(folder.environment.read_text(encoding="utf-8"))["starts"]
        parts.append(environment_section(starts[-1]))
    folder.write_text(folder.report, render_page(f"Training in {folder.path.resolve().name}", parts))
    return notes


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Return the last value of every metric of the training, with units."""
    rows: dict[str, Any] = {}
    for line in lines:
        rows |= {name: value for name, value in line.items() if name != "evaluation" and value is not None}
    if "memory" in rows:
        rows["memory"] = f"{rows['memory'] / 2**30:.2f} GiB"
    if "waiting" in rows:
        rows["waiting"] = f"{100 * rows['waiting']:.1f} % of the time"
    names = {"waiting": "waiting for data"}
    return [(names.get(name, _words(name)), value) for name, value in rows.items()]


def _words(name: str) -> str:
    return name.replace("_", " ")
