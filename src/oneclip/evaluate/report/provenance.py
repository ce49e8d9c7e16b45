"""Parts of the report on what was left out, and on what made the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from oneclip.embed.items import Failure
from oneclip.evaluate.report.elements import folded, row, table, text_cell
from oneclip.evaluate.report.overview import group_title
from oneclip.evaluate.result import Result

SHOWN_NAMES = 20
LONG_LIST = 12


def skipped_part(groups: Sequence[Sequence[Result]], failed: Sequence[Failure]) -> str:
    """List data sets that were not evaluated, and images that were not used, by reason."""
    parts = []
    if failed:
        rows = [row(one.name, [text_cell(one.reason)]) for one in failed]
        parts.append(table(["data set", "why it was not evaluated"], rows, text_columns=(0, 1, 2)))
    shown: set[str] = set()
    for results in groups:
        dataset = results[0].dataset
        if dataset.name in shown:
            continue
        shown.add(dataset.name)
        body = _images_by_reason(
            one
            for group in groups
            for result in group
            if result.dataset.name == dataset.name
            for one in result.skipped
        )
        if dataset.not_read:
            body += f"<p>{escape(dataset.not_read.sentence)}</p>"
        parts += [f"<h3>{escape(dataset.name)}</h3>{body}"] if body else []
    return "".join(parts) or "<p>Nothing: every image was used.</p>"


def _images_by_reason(failures: Iterable[Failure]) -> str:
    by_reason: dict[str, dict[str, None]] = {}
    for failure in failures:
        by_reason.setdefault(failure.short_reason, {})[failure.name] = None
    rows = []
    for reason, found in sorted(by_reason.items(), key=lambda each: -len(each[1])):
        names = list(found)
        more = f" and {len(names) - SHOWN_NAMES:,} others" if len(names) > SHOWN_NAMES else ""
        rows.append(
            row(reason, [text_cell(f"{len(names):,}"), text_cell(", ".join(names[:SHOWN_NAMES]) + more)])
        )
    return table(["reason", "images", "which"], rows, text_columns=(0, 1, 2)) if rows else ""


def made_by_part(groups: Sequence[Sequence[Result]]) -> str:
    """Show the settings: first those of each model, then those of each data set and task."""
    by_model: dict[str, list[Result]] = {}
    for result in (result for results in groups for result in results):
        by_model.setdefault(result.model, []).append(result)
    common = {
        model: _common_settings([result.made_by for result in found]) for model, found in by_model.items()
    }
    # with one data set all settings are common; those of the data set are not the model's
    of_data = {"source", "images", "splits", "templates", "options"}
    parts = [
        folded(model, _settings({k: v for k, v in settings.items() if k not in of_data}))
        for model, settings in common.items()
    ]
    for results in groups:
        first = results[0]
        settings = {k: v for k, v in first.made_by.items() if k in of_data or k not in common[first.model]}
        parts.append(folded(group_title(results), _settings(settings | _of_dataset(first))))
    return "".join(parts)


def _of_dataset(result: Result) -> dict[str, Any]:
    dataset = result.dataset
    facts = {"language": dataset.language, "number of classes": len(dataset.classes)}
    details = {k: v for k, v in result.score.details.items() if k not in ("calibration", "groups", "draws")}
    return {key: value for key, value in (facts | details).items() if value}


def _common_settings(all_settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = all_settings[0]
    return {
        key: value for key, value in first.items() if all(each.get(key) == value for each in all_settings)
    }


def _settings(settings: Mapping[str, Any]) -> str:
    rows = [row(name.replace("_", " "), [text_cell(_plain(value))]) for name, value in settings.items()]
    return table(["", ""], rows, text_columns=(0, 1, 2)) if rows else "<p>unknown</p>"


def _plain(value: Any) -> str:
    """Write JSON values as text: "resize 224, mean 0.5 0.5 0.5"; long lists are cut."""
    if isinstance(value, Mapping):
        items = [f"{key} {_plain(each)}" for key, each in list(value.items())[:LONG_LIST]]
        return ", ".join(items) + (f", … ({len(value):,} in all)" if len(value) > LONG_LIST else "")
    if isinstance(value, (list, tuple)):
        separator = " · " if any(isinstance(each, str) for each in value) else " "
        more = f"{separator}… ({len(value)} in all)" if len(value) > LONG_LIST else ""
        return separator.join(_plain(each) for each in value[:LONG_LIST]) + more
    return f"{value:.6g}" if isinstance(value, float) else str(value)
