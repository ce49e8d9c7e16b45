"""Plot of the metrics between the weights before and after fine-tuning."""

from __future__ import annotations

import io
from typing import Any

from oneclip.errors import MissingExtraError
from oneclip.train.finetune.wise_ft import AlphaSweep

NEW, REFERENCE, CHOSEN = "#0072b2", "#d55e00", "#009e73"  # colour-blind safe (Okabe & Ito)


def draw_alpha_sweep(sweep: AlphaSweep) -> bytes:
    """Draw a PNG: metrics by alpha and, with a reference task, the new task by the reference task.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("Drawing plots", "train") from error
    has_reference = sweep.reference_metric is not None
    figure = Figure(figsize=(10 if has_reference else 5.5, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2 if has_reference else 1, squeeze=False)[0]
    _plot_by_alpha(axes[0], sweep)
    if has_reference:
        _plot_tasks(axes[1], sweep)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plot_by_alpha(axes: Any, sweep: AlphaSweep) -> None:
    alphas = [point.alpha for point in sweep.points]
    new = [sweep.new_score(point) for point in sweep.points]
    axes.plot(alphas, new, "o-", color=NEW, label=f"new: {sweep.new_name}")
    if sweep.reference_metric is not None:
        reference = [sweep.reference_score(point) for point in sweep.points]
        axes.plot(alphas, reference, "s--", color=REFERENCE, label=f"reference: {sweep.reference_name}")
    axes.axvline(sweep.chosen, color=CHOSEN, linewidth=1, label=f"written: alpha {sweep.chosen:g}")
    axes.set_xlabel("alpha: 0 before, 1 after")
    has_one_metric = sweep.reference_metric in (None, sweep.new_metric)
    axes.set_ylabel(_label(sweep.new_metric) if has_one_metric else "metric")
    axes.legend(fontsize="small")
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def _plot_tasks(axes: Any, sweep: AlphaSweep) -> None:
    reference = [sweep.reference_score(point) for point in sweep.points]
    new = [sweep.new_score(point) for point in sweep.points]
    axes.plot(reference, new, "o-", color=NEW)
    for point, x, y in zip(sweep.points, reference, new, strict=True):
        if point.alpha in (0.0, 1.0, sweep.chosen):
            word = {0.0: "before", 1.0: "after"}.get(point.alpha, f"alpha {point.alpha:g}")
            axes.annotate(word, (x, y), textcoords="offset points", xytext=(6, 6), fontsize="small")
    chosen = sweep.at(sweep.chosen)
    axes.plot([sweep.reference_score(chosen)], [sweep.new_score(chosen)], "*", color=CHOSEN, markersize=16)
    axes.set_xlabel(f"reference: {sweep.reference_name}, {_label(str(sweep.reference_metric))}")
    axes.set_ylabel(f"new: {sweep.new_name}, {_label(sweep.new_metric)}")
    axes.margins(0.12)
    axes.grid(alpha=0.3)


def _label(metric: str) -> str:
    return metric.replace("_", " ")
