"""Report of an evaluation as one HTML page that loads nothing and runs no script."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType

from oneclip._version import __version__
from oneclip.embed.items import Failure
from oneclip.errors import DataError
from oneclip.evaluate.comparison import group_results
from oneclip.evaluate.report.classification import (
    calibration_part,
    classes_part,
    confusions_part,
    groups_part,
    shots_part,
)
from oneclip.evaluate.report.elements import count
from oneclip.evaluate.report.mistakes import Encoders, MistakesPart
from oneclip.evaluate.report.overview import (
    comparison_part,
    group_title,
    metrics_part,
    published_part,
    summary_part,
)
from oneclip.evaluate.report.provenance import made_by_part, skipped_part
from oneclip.evaluate.result import Result
from oneclip.html import render_page
from oneclip.hub.atomic import replace_file

HOW_TO_READ = """
<p>An interval says how much a figure would change with other images of the same kind (bootstrap over images; for
few-shot over the draws of images to learn from). It says nothing about images of another kind. A mean per class
recall counts every class alike, however many images it has. Figures of different templates, splits or
metrics cannot be compared.</p>
"""


def write_report(
    path: str | os.PathLike[str],
    results: Sequence[Result],
    *,
    encoders: Encoders = MappingProxyType({}),
    failed: Sequence[Failure] = (),
    title: str = "",
) -> None:
    """Write the report of an evaluation.

    Args:
        path: of the HTML file; an existing one is replaced.
        results: of one or several models, data sets and tasks.
        encoders: by the name of the model (`Result.model`), for heat maps of mistakes; a model without one has none.
        failed: data sets that could not be evaluated.
        title: of the page; by default it names the models.

    Raises:
        DataError: without results.
        OutputError: if the page cannot be written.
    """
    if not results:
        raise DataError("no results for the report; expected at least one")
    groups = group_results(results)
    models = list(dict.fromkeys(result.model for result in results))
    title = (
        title
        or f"Evaluation of {', '.join(models[:3])}{f' and {len(models) - 3} more' if len(models) > 3 else ''}"
    )
    mistakes = MistakesPart(len(results), encoders)
    sections = [
        ("Main metrics", summary_part(groups, models)),
        ("Comparison of models", comparison_part(groups)),
        ("Distance to published figures", published_part(results)),
        *((group_title(each), _dataset_section(each, groups, mistakes)) for each in groups),
        ("What was left out", skipped_part(groups, failed)),
        ("How it was made", made_by_part(groups)),
        ("How to read it", HOW_TO_READ),
    ]
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    with replace_file(path) as temporary:
        # a file name that is not valid Unicode is shown with escapes
        page = render_page(title, _body(title, results, [part for part in sections if part[1]]), style)
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _body(title: str, results: Sequence[Result], sections: Sequence[tuple[str, str]]) -> str:
    models, data = {each.model for each in results}, {each.dataset.name for each in results}
    facts = [count(len(models), "model"), count(len(data), "data set"), count(len(results), "result")]
    links = "".join(f'<li><a href="#part{i}">{escape(name)}</a></li>' for i, (name, _) in enumerate(sections))
    parts = "".join(
        f'<section id="part{i}"><h2>{escape(name)}</h2>\n{body}</section>\n'
        for i, (name, body) in enumerate(sections)
    )
    return (
        f"<header><h1>{escape(title)}</h1>\n<p>{' · '.join(facts)}</p></header>\n"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>{parts}</main>\n'
        f"<footer><p>Made by OneCLIP {escape(__version__)}</p></footer>\n"
    )


def _dataset_section(
    results: Sequence[Result], groups: Sequence[Sequence[Result]], mistakes: MistakesPart
) -> str:
    """Render everything about the models on one data set and task."""
    dataset = results[0].dataset
    zero_shot = [
        result
        for group in groups
        for result in group
        if result.dataset.name == dataset.name and result.task == "zeroshot_classification"
    ]
    is_few_shot = results[0].task == "few_shot"
    images = results[0].made_by.get("images")
    facts = [count(images, "image")] if images else []
    facts += [count(len(dataset.classes), "class")] if dataset.classes else []
    facts += [dataset.source] if dataset.source and dataset.source != dataset.name else []
    return "".join(
        (
            f"<p>{escape(' · '.join(facts))}</p>\n" if facts else "",
            metrics_part(results),
            shots_part(results, zero_shot) if is_few_shot else "",
            "<p>What follows is of one of the draws of images to learn from.</p>" if is_few_shot else "",
            groups_part(results),
            classes_part(results),
            confusions_part(results),
            calibration_part(results),
            mistakes.render(results),
        )
    )
