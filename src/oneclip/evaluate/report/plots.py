"""Plots of the report as SVG: calibration, and accuracy over the number of images to learn from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

COLOURS = 6
DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 4", "1 2")


@dataclass(frozen=True)
class Curve:
    """Accuracy over the number of images per class.

    Attributes:
        points: (images per class, accuracy, low, high), low and high NaN without an interval.
        reference: accuracy without learning; NaN if unknown.
    """

    points: Sequence[tuple[int, float, float, float]]
    reference: float = math.nan


@dataclass(frozen=True)
class _Frame:
    """Rectangle of a plot, from values to pixels."""

    left: float
    top: float
    width: float
    height: float
    low: float = 0.0
    high: float = 1.0

    def x(self, share: float) -> float:
        return round(self.left + share * self.width, 1)

    def y(self, value: float) -> float:
        return round(self.top + self.height * (1 - (value - self.low) / (self.high - self.low)), 1)


def calibration_plot(bins: Sequence[Mapping[str, Any]], title: str) -> str:
    """Draw accuracy over confidence, with the number of images below.

    Args:
        bins: of `oneclip.evaluate.calibration.calibration`.
        title: plain text for readers who cannot see it.
    """
    frame, counts = _Frame(48, 8, 240, 240), _Frame(48, 256, 240, 44)
    most = max((each["count"] for each in bins), default=0) or 1
    parts = [
        _grid(frame, [0, 0.25, 0.5, 0.75, 1]),
        _line([(frame.x(0), frame.y(0)), (frame.x(1), frame.y(1))]),
    ]
    for each in bins:
        left, width = frame.x(each["low"]), 240 * (each["high"] - each["low"]) - 1
        height = 44 * each["count"] / most
        if each["count"]:
            label = (
                f"{each['count']} images, confidence {each['confidence']:.0%}, {each['accuracy']:.0%} right"
            )
            parts.append(
                f'<rect x="{left}" y="{frame.y(each["accuracy"])}" width="{width:.1f}" '
                f'height="{240 * each["accuracy"]:.1f}" fill="var(--bar)" opacity=".75"><title>{label}</title></rect>'
                f'<rect x="{left}" y="{counts.y(height / 44):.1f}" width="{width:.1f}" height="{height:.1f}" '
                'fill="var(--soft)"/>'
            )
    parts += [
        *(f'<text x="{frame.x(v)}" y="316" text-anchor="middle">{v:.0%}</text>' for v in (0, 0.5, 1)),
        '<text x="168" y="332" text-anchor="middle">confidence</text>',
        f'<text x="{frame.left - 4}" y="300" text-anchor="end">images</text>',
    ]
    return _svg(306, 338, title, parts)


def shots_plot(curves: Mapping[str, Curve], title: str) -> str:
    """Draw accuracy over images per class, with intervals; dotted lines are accuracies without learning.

    Args:
        curves: by the name of the model.
        title: plain text for readers who cannot see it.
    """
    shots = sorted({point[0] for curve in curves.values() for point in curve.points})
    values = [
        value
        for curve in curves.values()
        for value in (curve.reference, *(value for point in curve.points for value in point[1:]))
        if not math.isnan(value)
    ]
    low = max(0.0, math.floor(10 * min(values) - 0.2) / 10)
    high = min(1.0, math.ceil(10 * max(values) + 0.2) / 10)
    frame = _Frame(38, 8, 400, 220, low, max(high, low + 0.1))
    ticks = [i / 10 for i in range(round(10 * low), round(10 * frame.high) + 1)]
    span = math.log2(shots[-1] / shots[0]) or 1.0

    def place(k: int) -> float:
        return frame.x(0.04 + 0.92 * (math.log2(k / shots[0]) / span if len(shots) > 1 else 0.5))

    parts = [_grid(frame, ticks)]
    parts += [f'<text x="{place(k)}" y="244" text-anchor="middle">{k}</text>' for k in shots]
    parts.append('<text x="238" y="260" text-anchor="middle">images per class</text>')
    for i, (name, curve) in enumerate(curves.items()):
        colour, dash = f"var(--c{i % COLOURS})", DASHES[i % COLOURS]
        aside = 4 * (i - (len(curves) - 1) / 2)  # so that intervals do not cover each other
        points = [(round(place(k) + aside, 1), frame.y(value)) for k, value, _, _ in curve.points]
        parts.append(_line(points, colour, dash, 2))
        for (x, y), (k, value, least, most) in zip(points, curve.points, strict=True):
            label = f"{name}, {k} per class: {value:.1%}"
            parts.append(
                f'<circle cx="{x}" cy="{y}" r="3.5" fill="{colour}"><title>{escape(label)}</title></circle>'
            )
            if not math.isnan(least):
                parts.append(
                    _line(
                        [(x, frame.y(max(least, low))), (x, frame.y(min(most, frame.high)))], colour, "", 1.5
                    )
                )
        if not math.isnan(curve.reference):
            ends = [(frame.x(0), frame.y(curve.reference)), (frame.x(1), frame.y(curve.reference))]
            parts.append(_line(ends, colour, "1 4", 1.5))
        y = 282 + 18 * i
        parts.append(_line([(38, y - 4), (66, y - 4)], colour, dash, 2))
        parts.append(f'<text x="74" y="{y}">{escape(name)}</text>')
    return _svg(448, 280 + 18 * len(curves), title, parts)


def _grid(frame: _Frame, values: Sequence[float]) -> str:
    lines = [
        f'<line x1="{frame.x(0)}" x2="{frame.x(1)}" y1="{frame.y(v)}" y2="{frame.y(v)}" stroke="var(--line)"/>'
        f'<text x="{frame.left - 5}" y="{frame.y(v) + 4}" text-anchor="end">{v:.0%}</text>'
        for v in values
    ]
    return "".join(lines)


def _line(
    points: Sequence[tuple[float, float]], colour: str = "var(--soft)", dash: str = "3 3", width: float = 1
) -> str:
    path = " ".join(f"{x},{y}" for x, y in points)
    style = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>\n'
    )
