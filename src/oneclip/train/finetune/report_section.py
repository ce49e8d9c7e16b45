"""Section of the report about a fine-tuning: what the model gained and forgot."""

from __future__ import annotations

from oneclip.html import html_table
from oneclip.train.finetune.wise_ft import AlphaSweep
from oneclip.train.reporting.html_page import Section, html_image, html_paragraph


def sweep_section(sweep: AlphaSweep, png: bytes | None) -> Section:
    """Make the section: what was gained and forgotten, the plot if any, and a table of all points."""
    header = ["alpha", f"{sweep.new_name}: {sweep.new_metric}"]
    if sweep.reference_metric is not None:
        header.append(f"{sweep.reference_name}: {sweep.reference_metric}")
    rows = []
    for point in sweep.points:
        reference = sweep.reference_score(point)
        mark = "written" if point.alpha == sweep.chosen else ""
        columns = [reference] if reference is not None else []
        rows.append([point.alpha, sweep.new_score(point), *columns, mark])
    body = [html_paragraph(f"model/ contains the weights at {describe_alpha(sweep.chosen)}.")]
    body += map(html_paragraph, gained_and_forgotten(sweep))
    if png is not None:
        body.append(f"<p>{html_image(png, 'metrics by alpha')}</p>")
    return Section("From before to after", "\n".join([*body, html_table(rows, [*header, ""])]))


def describe_alpha(alpha: float) -> str:
    """Return an alpha in words, such as "alpha 1: as trained"."""
    meaning = {0.0: ": unchanged", 1.0: ": as trained"}.get(alpha, "")
    return f"alpha {alpha:g}{meaning}"


def gained_and_forgotten(sweep: AlphaSweep) -> tuple[str, str]:
    """Compare the written model with the one before, on the new task and on the reference task."""
    first, chosen = sweep.points[0], sweep.at(sweep.chosen)
    gained = _change(
        "gained", sweep.new_name, sweep.new_metric, sweep.new_score(first), sweep.new_score(chosen)
    )
    was, is_now = sweep.reference_score(first), sweep.reference_score(chosen)
    if was is None or is_now is None:
        return gained, "forgotten: not measured, no reference task"
    name, metric = str(sweep.reference_name), str(sweep.reference_metric)
    return gained, _change("forgotten", name, metric, was, is_now)


def _change(word: str, name: str, metric: str, was: float, is_now: float) -> str:
    return f"{word}: {name}, {metric.replace('_', ' ')} {was:.4f} -> {is_now:.4f} ({is_now - was:+.4f})"
