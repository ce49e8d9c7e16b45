"""`oneclip sort`: put images into folders by label, and take it back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.classify import check_labels
from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.images import echo_skipped
from oneclip.cli.index_roots import NoUpdateOption, OpenIndex, open_roots
from oneclip.cli.search import IndexModelOption, IndexOption, IndexPrecisionOption
from oneclip.errors import OutputError, TextError

if TYPE_CHECKING:
    from oneclip.search.sort import SortPlan, SortResult
    from oneclip.search.sort_files import Action

USAGE_EXAMPLE = "as in: oneclip sort ~/Photos -l beach -l forest --into sorted"
DONE = {"copy": "copied", "move": "moved", "link": "linked"}


def sort(
    roots: Annotated[
        list[str] | None, typer.Argument(metavar="ROOT", help="Folders of images.", show_default=False)
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="TEXT", help="What an image may show; give two or more."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="DIR", help="Folder that receives a folder for each label."),
    ] = None,
    template: options.TemplateOption = None,
    min_probability: Annotated[
        float,
        typer.Option(
            "--min-probability", min=0, max=1, metavar="P", help="Leave less probable images where they are."
        ),
    ] = 0.0,
    move: Annotated[bool, typer.Option("--move", help="Move the files instead of copying them.")] = False,
    link: Annotated[bool, typer.Option("--link", help="Make symbolic links instead of copies.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")] = False,
    undo: Annotated[
        Path | None,
        typer.Option("--undo", metavar="LIST", help="Take back what a list names: DIR/oneclip-sort.csv."),
    ] = None,
    as_json: options.JsonOption = False,
    no_update: NoUpdateOption = False,
    index: IndexOption = None,
    model: IndexModelOption = None,
    device: options.DeviceOption = None,
    precision: IndexPrecisionOption = None,
    batch_size: options.BatchSizeOption = 32,
) -> None:
    """Sort images into folders by label. Files are copied, and none is overwritten.

    Each image goes to DIR/LABEL of its most probable label. DIR/oneclip-sort.csv lists what is done, and undoes it.
    After Ctrl-C, the same command continues.

    \b
    Examples:
      oneclip sort ~/Photos -l beach -l forest -l city --into sorted --dry-run
      oneclip sort ~/Photos -l receipt -l "a photo" --into sorted --move --min-probability 0.8
      oneclip sort --undo sorted/oneclip-sort.csv
    """
    if undo is not None:
        if roots or label or into or move or link or dry_run:
            raise typer.BadParameter(
                "--undo takes back a list and needs nothing else: oneclip sort --undo LIST"
            )
        _undo(undo, as_json)
        return
    labels, target = _check(roots or [], label or [], into, template, move=move, link=link)
    if model is not None:
        options.check_model(model)
    settings = {
        "model": model,
        "device": device,
        "precision": None if precision is None else precision.value,
    }
    action: Action = "move" if move else "link" if link else "copy"
    result = None
    with open_roots(
        roots or [], index, no_update=no_update, batch_size=batch_size, settings=settings
    ) as opened:
        plan = _plan(opened, labels, target, template, min_probability)
        if not dry_run:
            if action != "move":
                _exclude(opened, plan)
            result = _carry_out(plan, action)
        if as_json:
            print(json.dumps(_json(opened, plan, action, template, result), indent=2))
        elif dry_run:
            _print_plan(plan)
    _report(plan, action, result)


def _check(
    roots: Sequence[str],
    labels: list[str],
    into: Path | None,
    template: str | None,
    *,
    move: bool,
    link: bool,
) -> tuple[list[str], Path]:
    """Check what can be checked before a model is loaded."""
    if not roots:
        raise typer.BadParameter(f"no ROOT given; name a folder of images, {USAGE_EXAMPLE}")
    if not labels:
        raise typer.BadParameter(f"no labels given; give at least two, {USAGE_EXAMPLE}")
    if into is None:
        raise typer.BadParameter(f"no --into DIR given, {USAGE_EXAMPLE}")
    if move and link:
        raise typer.BadParameter("--move and --link exclude each other")
    check_labels(labels, template, USAGE_EXAMPLE)
    target = into.expanduser()
    if target.exists() and not target.is_dir():
        raise OutputError(f"{into} is a file; expected a folder")
    return labels, target


def _plan(
    opened: Sequence[OpenIndex],
    labels: list[str],
    into: Path,
    template: str | None,
    min_probability: float,
) -> SortPlan:
    from oneclip.cli.progress_bars import message_if_slow
    from oneclip.search.sort import plan_sort

    first = opened[0].index
    with message_if_slow(f"loading {first.model_name} …"):
        encoder = first.encoder
    if len(labels) == 1 and encoder.logit_bias is None:
        raise typer.BadParameter(f"only one label given; give at least two, {USAGE_EXAMPLE}")
    options.note_pocket_scope(first.model_name)
    collections = [(one.index, one.entries()) for one in opened]
    try:
        return plan_sort(collections, labels, into, template=template, min_probability=min_probability)
    except TextError as error:
        raise typer.BadParameter(str(error)) from error


def _exclude(opened: Sequence[OpenIndex], plan: SortPlan) -> None:
    """Leave copies in a folder that is inside a root out of its index."""
    from oneclip.search.sort import exclude_folder

    for one in opened:
        try:
            excluded = exclude_folder(one.index, plan.into)
        except OutputError as error:  # the sort itself does not need to write to the index
            echo_stderr(f"{plan.into} stays in the index: {error}", kind="note")
            continue
        for root in excluded:
            echo_stderr(f"{plan.into} is inside {root}; it is left out of the index from now on", kind="note")


def _carry_out(plan: SortPlan, action: Action) -> SortResult:
    from oneclip.cli.progress_bars import progress_bar
    from oneclip.search.sort import carry_out

    with progress_bar("images", len(plan.placements)) as advance:
        return carry_out(plan, action, advance)


def _json(
    opened: Sequence[OpenIndex],
    plan: SortPlan,
    action: Action,
    template: str | None,
    result: SortResult | None,
) -> dict[str, Any]:
    from oneclip.search.sort_list import LIST

    paths = [str(one.index.path) for one in opened]
    return {
        "index": paths[0] if len(paths) == 1 else paths,
        "model": opened[0].index.model_name,
        "template": template,
        "action": action,
        "list": os.path.join(plan.into, LIST),
        "images": [
            {
                "path": one.entry.path,
                "to": one.target,
                "label": one.label,
                "probability": round(one.probability, 6),
            }
            for one in plan.placements
        ],
        "sorted": None if result is None else result.done,
        "unsure": plan.unsure,
        "already_sorted": plan.done,
        "skipped": [
            {"path": one.name, "reason": one.reason}
            for one in (result.failures if result is not None else [])
        ],
    }


def _print_plan(plan: SortPlan) -> None:
    from oneclip.cli.search_output import short_path
    from oneclip.cli.table_output import Column, format_percent, print_table

    rows = [
        [short_path(one.entry.path), one.label, format_percent(one.probability), short_path(one.target)]
        for one in plan.placements
    ]
    if rows:
        columns = [Column("image", "cyan"), Column("label"), Column("probability", right=True), Column("to")]
        print_table(columns, rows)


def _report(plan: SortPlan, action: Action, result: SortResult | None) -> None:
    """Print the summary on stderr, and exit with the matching code."""
    from oneclip.search.sort_list import LIST

    rest = f", {plan.done} sorted before" if plan.done else ""
    rest += f", {plan.unsure} left where they are: not probable enough" if plan.unsure else ""
    if result is None:
        echo_stderr(f"{_images(len(plan.placements))} would be {DONE[action]}{rest}; nothing was changed")
        return
    echo_skipped(result.failures, skip=False)
    if result.interrupted:
        echo_stderr(
            f"interrupted: {result.done} of {_images(len(plan.placements))} {DONE[action]}; run the same command to "
            f"continue, or undo it: oneclip sort --undo {os.path.join(plan.into, LIST)}"
        )
        raise typer.Exit(ExitCode.INTERRUPTED)
    undo = f"; to undo it: oneclip sort --undo {os.path.join(plan.into, LIST)}" if result.done else ""
    echo_stderr(f"{_images(result.done)} {DONE[action]} to {plan.into}{rest}{undo}")
    if result.failures:
        raise typer.Exit(ExitCode.ERROR)


def _undo(path: Path, as_json: bool) -> None:
    from oneclip.search.sort_list import undo_sort

    result = undo_sort(path)
    if as_json:
        kept = [{"path": one.name, "reason": one.reason} for one in result.kept]
        print(json.dumps({"undone": result.undone, "kept": kept}, indent=2))
    for failure in result.kept:
        echo_stderr(str(failure))
    kept_count = f", {len(result.kept)} left as they are; {path} still lists them" if result.kept else ""
    echo_stderr(f"{_images(result.undone)} taken back{kept_count}")
    if result.kept:
        raise typer.Exit(ExitCode.ERROR)


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
