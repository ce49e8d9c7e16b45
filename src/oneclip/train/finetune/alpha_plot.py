"""The path from before to after, drawn."""

from __future__ import annotations

import io
from typing import Any

from oneclip.errors import MissingExtraError
from oneclip.train.finetune.wise_ft import Path

NEW, OLD, CHOSEN = "#0072b2", "#d55e00", "#009e73"  # of Okabe & Ito, which colour-blind people tell apart


def draw(path: Path) -> bytes:
    """A PNG: both figures by alpha and, if there is a task from before, the one by the other.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing plots", "train") from error
    has_old = path.old_metric is not None
    figure = Figure(figsize=(10 if has_old else 5.5, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2 if has_old else 1, squeeze=False)[0]
    _by_alpha(axes[0], path)
    if has_old:
        _by_each_other(axes[1], path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _by_alpha(axes: Any, path: Path) -> None:
    alphas = [point.alpha for point in path.points]
    axes.plot(
        alphas, [path.new(point) for point in path.points], "o-", color=NEW, label=f"new: {path.new_name}"
    )
    if path.old_metric is not None:
        old = [path.old(point) for point in path.points]
        axes.plot(alphas, old, "s--", color=OLD, label=f"before: {path.old_name}")
    axes.axvline(path.chosen, color=CHOSEN, linewidth=1, label=f"written: alpha {path.chosen:g}")
    axes.set_xlabel("alpha: 0 before, 1 after")
    axes.set_ylabel(_label(path.new_metric) if path.old_metric in (None, path.new_metric) else "figure")
    axes.legend(fontsize="small")
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def _by_each_other(axes: Any, path: Path) -> None:
    old = [path.old(point) for point in path.points]
    new = [path.new(point) for point in path.points]
    axes.plot(old, new, "o-", color=NEW)
    for point, x, y in zip(path.points, old, new, strict=True):
        if point.alpha in (0.0, 1.0, path.chosen):
            word = {0.0: "before", 1.0: "after"}.get(point.alpha, f"alpha {point.alpha:g}")
            axes.annotate(word, (x, y), textcoords="offset points", xytext=(6, 6), fontsize="small")
    chosen = path.at(path.chosen)
    axes.plot([path.old(chosen)], [path.new(chosen)], "*", color=CHOSEN, markersize=16)
    axes.set_xlabel(f"before: {path.old_name}, {_label(str(path.old_metric))}")
    axes.set_ylabel(f"new: {path.new_name}, {_label(path.new_metric)}")
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def _label(metric: str) -> str:
    return metric.replace("_", " ")
