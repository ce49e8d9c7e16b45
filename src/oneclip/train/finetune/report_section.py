"""The path from before to after to a part of the report, and to two lines for people."""

from __future__ import annotations

from oneclip.train.finetune.wise_ft import Path
from oneclip.train.reporting.html_page import Section, paragraph, picture, table


def section(path: Path, png: bytes | None) -> Section:
    """What was gained and forgotten, the plot if there is one, and the figures of every point."""
    header = ["alpha", f"{path.new_name}: {path.new_metric}"]
    if path.old_metric is not None:
        header.append(f"{path.old_name}: {path.old_metric}")
    rows = []
    for point in path.points:
        old = path.old(point)
        mark = "written" if point.alpha == path.chosen else ""
        rows.append([point.alpha, path.new(point), *([old] if old is not None else []), mark])
    what = f"model/ holds the weights at {alpha_in_words(path.chosen)}."
    body = [paragraph(what), *map(paragraph, gained_and_forgotten(path))]
    if png is not None:
        body.append(f"<p>{picture(png, 'figures by alpha')}</p>")
    return Section("From before to after", "\n".join([*body, table(rows, [*header, ""])]))


def alpha_in_words(alpha: float) -> str:
    """A point between before and after, and what it means at its ends."""
    meaning = {0.0: ": unchanged", 1.0: ": as trained"}.get(alpha, "")
    return f"alpha {alpha:g}{meaning}"


def gained_and_forgotten(path: Path) -> tuple[str, str]:
    """What the model that is written has on the new task, and on the one from before."""
    first, chosen = path.points[0], path.at(path.chosen)
    gained = _change("gained", path.new_name, path.new_metric, path.new(first), path.new(chosen))
    was, is_now = path.old(first), path.old(chosen)
    if was is None or is_now is None:
        return gained, "forgotten: not measured, there is no data from before"
    return gained, _change("forgotten", str(path.old_name), str(path.old_metric), was, is_now)


def _change(word: str, name: str, metric: str, was: float, is_now: float) -> str:
    return f"{word}: {name}, {metric.replace('_', ' ')} {was:.4f} -> {is_now:.4f} ({is_now - was:+.4f})"
