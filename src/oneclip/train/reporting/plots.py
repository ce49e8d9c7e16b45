"""Plots of the metrics of a run, as PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from oneclip.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# keys of a metrics line that are not losses
NOT_LOSSES = ("step", "lr", "logit_scale", "grad_norm", "pairs_per_second", "waiting", "memory", "evaluation")
INCHES, DPI = (7.0, 3.5), 110
Curve = tuple[list[int], list[float]]
"""Steps, and the value at each."""


def draw_plots(lines: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Draw one plot each for loss, learning rate, throughput, logit scale, gradient norm and evaluation.

    Args:
        lines: parsed lines of `metrics.jsonl`.

    Returns:
        PNG content by name; empty without metrics.

    Raises:
        MissingExtraError: without matplotlib.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("Drawing the curves of a run", "train")
    reports = [line for line in lines if "lr" in line]
    losses = dict.fromkeys(name for line in reports for name in line if name not in NOT_LOSSES)
    plots = {
        "loss": _curves({name: _curve(reports, name) for name in losses}, "loss"),
        "learning_rate": _curves({"learning rate": _curve(reports, "lr")}, "learning rate"),
        "throughput": _throughput(reports),
        "logit_scale": _curves({"logit scale": _curve(reports, "logit_scale")}, "logit scale"),
        "gradient_norm": _curves(
            {"norm": _curve(reports, "grad_norm")}, "gradient norm before clipping", logarithmic=True
        ),
    }
    evaluations = [{"step": line["step"], **line["evaluation"]} for line in lines if line.get("evaluation")]
    if evaluations:
        plots["evaluation"] = _evaluation(evaluations)
    return plots if reports else {}


def _curve(lines: Iterable[Mapping[str, Any]], name: str) -> Curve:
    points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in points], [value for _, value in points]


def _curves(curves: Mapping[str, Curve], title: str, *, logarithmic: bool = False) -> bytes:
    figure = _figure()
    _plot(figure.add_subplot(), curves, title)
    if logarithmic and all(value > 0 for _, values in curves.values() for value in values):
        figure.axes[0].set_yscale("log")
    return _png(figure)


def _throughput(reports: Sequence[Mapping[str, Any]]) -> bytes:
    figure = _figure()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    _plot(above, {"pairs": _curve(reports, "pairs_per_second")}, "pairs per second", bottom=0)
    steps, waiting = _curve(reports, "waiting")
    _plot(below, {"waiting": (steps, [100 * share for share in waiting])}, "waiting for data, %", bottom=0)
    above.set_xlabel("")
    return _png(figure)


def _evaluation(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Plot metrics that are better when lower (losses) on the left, the others on the right."""
    names = dict.fromkeys(name for line in lines for name in line if name != "step")
    lower = [name for name in names if "loss" in name]
    higher = [name for name in names if name not in lower]
    sides = [side for side in (lower, higher) if side]
    figure = _figure()
    for axes, side in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
        curves = {name: _curve(lines, name) for name in side}
        _plot(
            axes, curves, "evaluation, lower is better" if side is lower else "evaluation, higher is better"
        )
    return _png(figure)


def _plot(axes: Axes, curves: Mapping[str, Curve], title: str, *, bottom: float | None = None) -> None:
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 30 else "")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    if len(curves) > 1:
        axes.legend(fontsize=7)


def _figure() -> Any:
    from matplotlib.figure import Figure  # pyplot would open a window and share state

    return Figure(figsize=INCHES, dpi=DPI, layout="constrained")


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
