"""The metrics of a run to its plots and its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from oneclip.errors import MissingExtraError
from oneclip.train.reporting.html_page import (
    Section,
    curves_section,
    environment_section,
    page,
    paragraph,
    settings_section,
    table,
)
from oneclip.train.reporting.metrics import read_metrics
from oneclip.train.reporting.plots import draw
from oneclip.train.run_dir import RunFolder


def write_summary(
    folder: RunFolder,
    state: str,
    sections: Sequence[Section] = (),
    evaluation: Mapping[str, float] | None = None,
) -> list[str]:
    """Write `plots/` and `report.html` from what the folder holds.

    Args:
        folder: of the run.
        state: how the run ended, a sentence.
        sections: further ones, before settings and environment.
        evaluation: of the weights in `model/`; None where there are none.

    Returns:
        notes: what is missing, and why.

    Raises:
        OutputError: if they cannot be written.
    """
    lines, notes = read_metrics(folder.metrics), []
    try:
        pictures = draw(lines)
    except MissingExtraError as error:
        pictures = {}
        notes.append(f"{folder.plots} was not written. {error}")
    for name, content in pictures.items():
        folder.write_bytes(folder.plots / f"{name}.png", content)
    held_out = [(f"held-out {_words(name)}", value) for name, value in (evaluation or {}).items()]
    parts = [Section("Result", paragraph(state) + table(held_out))]
    parts.append(Section("Last step of the training", table(_rows(lines))))
    parts += [curves_section(pictures)] if pictures else []
    parts += sections
    if folder.config.is_file():
        parts.append(settings_section(folder.config.read_text(encoding="utf-8")))
    if folder.environment.is_file():
        starts = json.loads(folder.environment.read_text(encoding="utf-8"))["starts"]
        parts.append(environment_section(starts[-1]))
    folder.write_text(folder.report, page(f"Training in {folder.path.resolve().name}", parts))
    return notes


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """The last figures of everything that was measured while training, with their units."""
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
