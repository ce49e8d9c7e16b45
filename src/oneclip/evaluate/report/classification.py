"""Parts of the report for classifications: classes, confusions, groups, calibration, few-shot curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from oneclip.evaluate.encoded import Predictions
from oneclip.evaluate.report.elements import (
    bar_cell,
    cell,
    count,
    folded,
    interval,
    metric_name,
    percent,
    row,
    table,
    text_cell,
)
from oneclip.evaluate.report.plots import Curve, calibration_plot, shots_plot
from oneclip.evaluate.result import Result

SHOWN_CLASSES = 20  # the others are folded
MATRIX_CLASSES = 25
TOP_CONFUSIONS = 20


def classes_part(results: Sequence[Result]) -> str:
    """Show the main metric of each class, worst first, as bars; results are of the same data set and task."""
    with_classes = [result for result in results if result.score.per_class]
    if not with_classes:
        return ""
    names = sorted(
        {name for result in with_classes for name in result.score.per_class},
        key=lambda name: (with_classes[0].score.per_class.get(name, math.inf), name),
    )
    counts = _images_per_class(with_classes[0])
    rows = [
        row(
            name,
            ([cell(f"{counts[name]:,}")] if counts else [])
            + [bar_cell(result.score.per_class.get(name)) for result in with_classes],
        )
        for name in names
    ]
    header = ["class", *(["images"] if counts else []), *(result.model for result in with_classes)]
    shown, others = rows[:SHOWN_CLASSES], rows[SHOWN_CLASSES:]
    what = "worst first" + (f" by {with_classes[0].model}" if len(with_classes) > 1 else "")
    of_what = (
        "percent of the images of the class"
        if counts
        else f"{metric_name(with_classes[0].score.headline)}, percent"
    )
    body = table(header, shown, f"{count(len(names), 'class')}, {what}; {of_what}")
    if others:
        body += folded(f"the other {len(others):,} classes", table(header, others), is_long=True)
    return f"<h3>Classes</h3>\n{body}"


def _images_per_class(result: Result) -> dict[str, int]:
    predictions, classes = result.score.predictions, result.dataset.classes
    if predictions is None:
        return {}
    numbers = np.bincount(predictions.labels, minlength=len(classes))
    return {name: int(numbers[i]) for i, name in enumerate(classes)}


def confusions_part(results: Sequence[Result]) -> str:
    """Show what each class was taken for: a matrix for few classes, else the most frequent confusions."""
    parts = []
    for i, result in enumerate(results):
        if result.score.predictions is None:
            continue
        classes, predictions = result.dataset.classes, result.score.predictions
        body = (
            _matrix(classes, predictions) if len(classes) <= MATRIX_CLASSES else _list(classes, predictions)
        )
        parts.append(body if len(results) == 1 else folded(result.model, body, is_open=i == 0))
    return f"<h3>Confusions</h3>\n{''.join(parts)}" if parts else ""


def _matrix(classes: Sequence[str], predictions: Predictions) -> str:
    number = len(classes)
    cells = np.bincount(number * predictions.labels + predictions.predicted, minlength=number**2)
    counts = cells.reshape(number, number)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in classes)
    rows = []
    for i, name in enumerate(classes):
        filled = "".join(
            f'<td{" class=own" if i == j else ""} style="background:color-mix(in srgb,'
            f'var(--{"right" if i == j else "wrong"}) {60 * shares[i, j]:.0f}%,var(--card))">'
            f"{counts[i, j] or ''}</td>"
            for j in range(number)
        )
        rows.append(f'<tr><th scope="row" title="{escape(name)}">{escape(name)}</th>{filled}</tr>\n')
    return (
        '<p class="caption">Images of each class (rows) by what was predicted (columns); colour is the share of the '
        'row</p><div class="scroll"><table class="matrix">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>\n"
    )


def _list(classes: Sequence[str], predictions: Predictions) -> str:
    wrong = predictions.labels != predictions.predicted
    pairs, counts = np.unique(
        len(classes) * predictions.labels[wrong] + predictions.predicted[wrong], return_counts=True
    )
    totals = np.bincount(predictions.labels, minlength=len(classes))
    order = np.argsort(-counts, kind="stable")[:TOP_CONFUSIONS]
    rows = []
    for pair, found in zip(pairs[order], counts[order], strict=True):
        label, predicted = divmod(int(pair), len(classes))
        cells = [text_cell(classes[predicted]), cell(f"{found:,}"), cell(percent(found / totals[label]))]
        rows.append(row(classes[label], cells))
    caption = f"The {len(rows)} most frequent of {count(len(pairs), 'confusion')}"
    return table(["class", "predicted", "images", "% of the class"], rows, caption, (0, 1))


def groups_part(results: Sequence[Result]) -> str:
    """Show the accuracy of each group, worst first."""
    found = {
        result.model: {each["group"]: each for each in result.score.details["groups"]}
        for result in results
        if result.score.details.get("groups")
    }
    if not found:
        return ""
    first = next(iter(found.values()))
    rows = [
        row(
            name or "(no group)",
            [cell(f"{first[name]['count']:,}")]
            + [
                cell(percent(groups[name]["acc1"]), interval(groups[name].get("interval")))
                if name in groups
                else "<td></td>"
                for groups in found.values()
            ],
        )
        for name in first
    ]
    caption = f"Accuracy of {count(len(first), 'group')}, worst first; percent, with 95 % intervals"
    return f"<h3>Groups</h3>\n{table(['group', 'images', *found], rows, caption)}"


def calibration_part(results: Sequence[Result]) -> str:
    """Show whether a confidence of 80 % means that 80 % are right, one plot for each model."""
    plots = []
    for result in results:
        bins, predictions = result.score.details.get("calibration"), result.score.predictions
        if not bins or predictions is None or not len(predictions.labels):
            continue
        confidence = float(predictions.confidence.mean())
        accuracy = float((predictions.predicted == predictions.labels).mean())
        tendency = "too confident" if confidence > accuracy else "not confident enough"
        text = f"Mean confidence {confidence:.1%}, accuracy {accuracy:.1%}: {tendency} on average."
        plot = calibration_plot(bins, f"Accuracy over confidence of {result.model}. {text}")
        plots.append(f"<figure>{plot}<figcaption>{escape(result.model)}<br>{text}</figcaption></figure>")
    if not plots:
        return ""
    about = "Bars on the dashed line: confidence can be read as probability. Bars below it: confidence is too high."
    return f'<h3>Calibration</h3>\n<p>{about}</p><div class="side">{"".join(plots)}</div>\n'


def shots_part(results: Sequence[Result], zero_shot: Sequence[Result]) -> str:
    """Show accuracy over images per class.

    Args:
        results: few-shot results of one data set.
        zero_shot: zero-shot results of the same data set, for comparison.
    """
    without = {result.model: result.metrics.get("acc1", math.nan) for result in zero_shot}
    curves = {
        result.model: Curve(_points(result), without.get(result.model, math.nan))
        for result in results
        if _points(result)
    }
    if not curves:
        return ""
    dotted = (
        " Dotted lines: zero-shot." if any(not math.isnan(one.reference) for one in curves.values()) else ""
    )
    plot = shots_plot(curves, f"Accuracy over images per class of {', '.join(curves)}.")
    return f"<h3>Accuracy by images per class</h3>\n<p>Vertical lines are 95 % intervals.{dotted}</p>{plot}"


def _points(result: Result) -> list[tuple[int, float, float, float]]:
    points = []
    for name, value in result.metrics.items():
        metric, _, shots = name.partition("@")
        if metric == "acc1" and shots.isdecimal() and not math.isnan(value):
            low, high = result.score.intervals.get(name, (math.nan, math.nan))
            points.append((int(shots), value, low, high))
    return sorted(points)
