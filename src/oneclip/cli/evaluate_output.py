"""Results of `oneclip evaluate` as tables and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from oneclip.cli.table_output import Column, print_table
from oneclip.embed.items import Failure
from oneclip.evaluate.comparison import compare_results, group_results
from oneclip.evaluate.result import Result
from oneclip.evaluate.result_files import to_json


def print_results(results: Sequence[Result]) -> None:
    """Print a result with all its metrics, or the main metric of several."""
    if len(results) == 1:
        _print_metrics(results[0])
        return
    models = list(dict.fromkeys(result.model for result in results))
    by_row: dict[tuple[str, str, str], dict[str, Result]] = {}
    for result in results:
        key = (result.dataset.name, result.task, result.score.headline)
        by_row.setdefault(key, {})[result.model] = result
    rows = [
        [*key, *(_format_headline(found.get(model)) for model in models)] for key, found in by_row.items()
    ]
    rows += _mean_rows(by_row, models)
    columns = [Column("data", "cyan"), Column("task", optional=True), Column("metric")]
    print_table([*columns, *(Column(model, right=True) for model in models)], rows)


def print_comparison(results: Sequence[Result]) -> None:
    """Print the difference of the main metric between the first model and each other one."""
    rows = [
        [
            one["dataset"],
            one["metric"],
            f"{one['models'][1]} − {one['models'][0]}",
            _format_difference(one),
            one["note"],
        ]
        for one in comparisons(results)
    ]
    if rows:
        print()
        columns = [
            Column("data", "cyan"),
            Column("metric"),
            Column("models"),
            Column("difference", right=True),
        ]
        print_table([*columns, Column("")], rows)


def comparisons(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Compare the models that were evaluated on the same data and task with the first of them.

    Returns:
        JSON values: `dataset`, `task`, `metric`, `models` (the first, and the one compared with it), `difference` (of
        the second to the first), its 95 % `interval` or null, the number of `items` that both have, and `note`.
    """
    return [_compare(first, other) for first, *others in group_results(results) for other in others]


def as_document(results: Sequence[Result], failed: Sequence[Failure], *, compare: bool) -> str:
    """Return the JSON of `--json`."""
    document: dict[str, Any] = {"results": [to_json(result) for result in results]}
    if compare:
        document["comparisons"] = comparisons(results)
    document["failed"] = [{"data": one.name, "reason": one.reason} for one in failed]
    return json.dumps(document, indent=2)


def _compare(first: Result, other: Result) -> dict[str, Any]:
    found = compare_results(first, other)
    interval = (found.low, found.high)
    return {
        "dataset": first.dataset.name,
        "task": first.task,
        "metric": first.score.headline,
        "models": [first.model, other.model],
        "difference": found.difference if math.isfinite(found.difference) else None,
        "interval": interval if all(map(math.isfinite, interval)) else None,
        "items": found.items,
        "note": found.note or ("clear" if found.is_clear else "no clear difference"),
    }


def _print_metrics(result: Result) -> None:
    images = result.made_by.get("images", 0)
    title = f"{result.dataset.name}, {images} image{'s' * (images != 1)}"
    score = result.score
    rows = [
        [name.replace("_", " "), f"{value:.4f}", _format_interval(score.intervals.get(name))]
        for name, value in score.metrics.items()
        if not math.isnan(value)
    ]
    if result.published is not None:
        rows.append(["published", f"{result.published:.4f}", ""])
    print_table([Column(title, "cyan"), Column("", right=True), Column("95 %", optional=True)], rows)


def _mean_rows(
    by_row: dict[tuple[str, str, str], dict[str, Result]], models: Sequence[str]
) -> Iterable[list[str]]:
    """Return a row with the mean over data sets for each task and metric that has several."""
    groups: dict[tuple[str, str], list[dict[str, Result]]] = {}
    for (_, task, metric), found in by_row.items():
        groups.setdefault((task, metric), []).append(found)
    for (task, metric), rows in groups.items():
        if len(rows) > 1:
            means = [
                f"{sum(row[model].metrics[metric] for row in rows) / len(rows):.4f}"
                if all(model in row for row in rows)
                else ""
                for model in models
            ]
            yield [f"mean of {len(rows)}", task, metric, *means]


def _format_headline(result: Result | None) -> str:
    if result is None:
        return ""
    metric = result.score.headline
    return f"{result.metrics[metric]:.4f} {_format_interval(result.score.intervals.get(metric))}".rstrip()


def _format_interval(interval: tuple[float, float] | None) -> str:
    if interval is None or not all(map(math.isfinite, interval)):
        return ""
    return f"[{interval[0]:.3f}, {interval[1]:.3f}]"


def _format_difference(one: dict[str, Any]) -> str:
    if one["difference"] is None:
        return ""
    interval = one["interval"]
    found = f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else ""
    return f"{one['difference']:+.4f}{found}"
