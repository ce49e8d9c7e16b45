"""Parts of the report over all data sets: main metrics, comparison of models, distance to published figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

from oneclip.evaluate.comparison import compare_results
from oneclip.evaluate.published import PublishedFigure, published_figures
from oneclip.evaluate.report.elements import (
    cell,
    count,
    interval,
    metric_name,
    percent,
    row,
    signed_interval,
    signed_percent,
    table,
    text_cell,
)
from oneclip.evaluate.result import Result

TASK_NAMES = {
    "zeroshot_classification": "zero-shot classification",
    "zeroshot_retrieval": "retrieval",
    "linear_probe": "linear probe",
    "few_shot": "few-shot classification",
    "image_caption_selection": "caption selection",
}
LOWER_IS_BETTER = ("ece",)


class Published(NamedTuple):
    """Metric of a result, and what was published for it."""

    result: Result
    metric: str
    figure: PublishedFigure

    @property
    def difference(self) -> float:
        """How much more was measured than published."""
        return self.result.metrics[self.metric] - self.figure.value


def group_title(results: Sequence[Result]) -> str:
    """Name the data set and the task of results that belong together."""
    first = results[0]
    return f"{first.dataset.name}: {TASK_NAMES.get(first.task, first.task)}"


def summary_part(groups: Sequence[Sequence[Result]], models: Sequence[str]) -> str:
    """Show the main metric of each model on each data set and task."""
    rows = []
    for results in groups:
        headline = results[0].score.headline
        by_model = {result.model: result for result in results}
        best = _best([result.metrics.get(headline, math.nan) for result in results], headline)
        cells = [_headline_cell(by_model.get(model), headline, best, len(models)) for model in models]
        rows.append(row(group_title(results), cells, metric_name(headline)))
    rows += _mean_rows(groups, models)
    caption = "Main metric in percent, with 95 % intervals"
    return table(["", *models], rows, caption + ("; the best of a row is bold" if len(models) > 1 else ""))


def _mean_rows(groups: Sequence[Sequence[Result]], models: Sequence[str]) -> Iterator[str]:
    """Yield the mean over data sets for each task and metric that has several."""
    by_metric: dict[tuple[str, str], list[dict[str, float]]] = {}
    for results in groups:
        metric = results[0].score.headline
        values = {result.model: result.metrics.get(metric, math.nan) for result in results}
        by_metric.setdefault((results[0].task, metric), []).append(values)
    for (task, metric), found in by_metric.items():
        if len(found) > 1:
            means = [sum(values.get(model, math.nan) for values in found) / len(found) for model in models]
            best = _best(means, metric)
            cells = [
                cell(percent(mean), "", "best" if len(models) > 1 and mean == best else "") for mean in means
            ]
            yield row(f"Mean of {len(found)}: {TASK_NAMES.get(task, task)}", cells, metric_name(metric))


def _headline_cell(result: Result | None, headline: str, best: float, models: int) -> str:
    if result is None:
        return "<td></td>"
    value = result.metrics.get(headline, math.nan)
    is_best = models > 1 and value == best
    return cell(percent(value), interval(result.score.intervals.get(headline)), "best" if is_best else "")


def metrics_part(results: Sequence[Result]) -> str:
    """Show all metrics of the models on one data set and task."""
    names = dict.fromkeys(name for result in results for name in result.metrics)
    rows = []
    for name in names:
        values = [result.metrics.get(name, math.nan) for result in results]
        if all(map(math.isnan, values)):
            continue
        best = _best(values, name)
        cells = [
            cell(
                percent(value),
                interval(result.score.intervals.get(name)),
                "best" if len(results) > 1 and value == best else "",
            )
            for value, result in zip(values, results, strict=True)
        ]
        rows.append(row(metric_name(name), cells, "lower is better" if name in LOWER_IS_BETTER else ""))
    return table(["", *(result.model for result in results)], rows, "Percent, with 95 % intervals")


def comparison_part(groups: Sequence[Sequence[Result]]) -> str:
    """Show the difference of each model to the first one of a data set, with its interval."""
    rows = []
    for results in groups:
        first, *others = results
        for other in others:
            found = compare_results(first, other)
            verdict = "clear" if found.is_clear else "no clear difference"
            cells = [
                text_cell(f"{other.model} − {first.model}"),
                cell(signed_percent(found.difference), signed_interval(found.low, found.high)),
                text_cell(found.note or f"{verdict}, {count(found.items, 'item')}"),
            ]
            rows.append(row(group_title(results), cells, metric_name(first.score.headline)))
    if not rows:
        return ""
    about = (
        "Both models are compared on the same items, so these intervals are narrower than those of two separate "
        "figures. A difference is clear if its interval does not contain 0."
    )
    header = ["", "models", "difference", ""]
    return f"<p>{about}</p>{table(header, rows, 'Percentage points, with 95 % intervals', (0, 1, 3))}"


def published_part(results: Iterable[Result]) -> str:
    """Show how far the figures are from those that open_clip published for the same weights and data set."""
    rows = []
    for found in find_published(results):
        bounds = found.result.score.intervals.get(found.metric)
        inside = bounds is not None and bounds[0] <= found.figure.value <= bounds[1]
        doubts = f"; in doubt: {', '.join(found.figure.doubts)}" if found.figure.doubts else ""
        cells = [
            text_cell(metric_name(found.metric)),
            cell(percent(found.result.metrics[found.metric], 2)),
            cell(percent(found.figure.value, 2)),
            cell(signed_percent(found.difference), "inside the interval" if inside else ""),
            f'<td class="doubt">{escape(doubts.removeprefix("; "))}</td>' if doubts else "<td></td>",
        ]
        rows.append(row(found.result.dataset.name, cells, f"{found.result.model} ({found.figure.column})"))
    if not rows:
        return ""
    about = (
        "Published by open_clip (docs/openclip_results.csv and openclip_retrieval_results.csv), some on other "
        "copies of the data sets and with other templates, so small differences are to be expected."
    )
    header = ["", "metric", "here", "published", "difference", ""]
    return f"<p>{about}</p>{table(header, rows, 'Percent', (0, 1, 5))}"


def find_published(results: Iterable[Result]) -> Iterator[Published]:
    """Yield the metrics of zero-shot results for which figures were published."""
    for result in results:
        if not result.task.startswith("zeroshot"):
            continue
        known = published_figures(
            result.architecture, result.pretrained, result.dataset.name, len(result.dataset.classes)
        )
        for metric, figure in known.items():
            if not math.isnan(result.metrics.get(metric, math.nan)):
                yield Published(result, metric, figure)


def _best(values: Sequence[float], metric: str) -> float:
    known = [value for value in values if not math.isnan(value)] or [math.nan]
    return min(known) if metric in LOWER_IS_BETTER else max(known)
