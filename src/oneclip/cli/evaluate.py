"""`oneclip evaluate`: how good a model is at telling classes apart, or at finding pictures by captions and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode
from oneclip.cli.images import tell_not_read, tell_skipped
from oneclip.embed.items import Failure
from oneclip.hub.file_types import NotRead

if TYPE_CHECKING:
    from oneclip.evaluate import Task


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="TABLE|FOLDER",
            help="CSV or Parquet file with a picture and a caption a row, or a folder with a folder of pictures for "
            "each class.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="A name that `oneclip models` lists, a file or a folder."),
    ] = None,
    model_option: options.ModelToo = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="FOLDER", help="What paths are relative to. [default: the table's folder]"
        ),
    ] = None,
    templates: Annotated[
        str,
        typer.Option(
            "--templates",
            metavar="simple|imagenet|FILE|TEXT",
            help="Prompts for classes: 7 or 80 of ImageNet's, a file with one a line, or one, with {} for the name.",
        ),
    ] = "simple",
    image_column: Annotated[
        str, typer.Option("--image-column", metavar="NAME", help="Column of picture paths.")
    ] = "filepath",
    caption_column: Annotated[
        str, typer.Option("--caption-column", metavar="NAME", help="Column of captions.")
    ] = "caption",
    separator: Annotated[
        str | None,
        typer.Option("--separator", metavar="CHAR", help="Between CSV columns. [default: found out]"),
    ] = None,
    device: options.Device = None,
    precision: options.PrecisionOption = options.Precision.fp32,
    batch_size: options.BatchSize = 32,
    max_pixels: options.MaxPixels = None,
    truncated: options.TruncatedOption = options.Truncated.refuse,
    skip: Annotated[
        bool,
        typer.Option("--skip", help="Leave out pictures that are missing; otherwise they are an error."),
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Measure how good a model is.

    A folder of classes (FOLDER/CLASS/picture) is classified without examples: an underscore in a class's name is
    a space. A table is searched both ways; a picture with several captions, or a caption with several pictures, is
    found if any of them is. Pictures that cannot be read are left out, named and counted, and the exit code is 3.

    \b
    Examples:
      oneclip evaluate pocket --data held_out.csv --images pictures/
      oneclip evaluate ViT-B/32 --data imagenet/val/ --templates imagenet --json
    """
    name = options.one_model(model, model_option, "oneclip evaluate MODEL --data DATA")
    options.find_model(name)
    from oneclip.cli.progress_bars import bar
    from oneclip.evaluate import Classification, OfEncoder, open_task, read_templates

    task = open_task(
        data,
        images=images,
        image_column=image_column,
        caption_column=caption_column,
        separator=_separator(separator),
        templates=read_templates(templates),
        skip_missing=skip,
    )
    encoder = options.load_encoder(name, device, precision, max_pixels, truncated)
    with bar("pictures", len(task)) as advance:
        results = task(OfEncoder(encoder, batch_size=batch_size, advance=advance))
    skipped = [Failure(name, why) for name, why in task.skipped.items()]
    if as_json:
        print(json.dumps(_answer(encoder.name, task, results, skipped), indent=2))
    else:
        _print(task, results)
    tell_skipped(skipped)
    tell_not_read(task.not_read if isinstance(task, Classification) else NotRead())
    if skipped:
        raise typer.Exit(ExitCode.SKIPPED)


def _separator(given: str | None) -> str | None:
    if given is None:
        return None
    separator = "\t" if given in ("\\t", "tab") else given
    if len(separator) != 1:
        raise typer.BadParameter(f"--separator is one character, or tab; found {given!r}")
    return separator


def _answer(model: str, task: Task, results: dict[str, float], skipped: list[Failure]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "model": model,
        "data": task.name,
        "pictures": len(task) - _unread(task),
        "results": results,
    }
    per_class = getattr(task, "per_class", None)
    if per_class is not None:
        answer["per_class"] = per_class
    return answer | {"skipped": [{"path": one.name, "reason": one.reason} for one in skipped]}


def _unread(task: Task) -> int:
    """Pictures of the task that were there and could not be read."""
    return len(task.skipped) - len(getattr(task, "missing", {}))


def _print(task: Task, results: dict[str, float]) -> None:
    from oneclip.cli.table_output import Column, print_table

    rows = [[key.replace("_", " "), f"{value:.4f}"] for key, value in results.items()]
    print_table(
        [Column(f"{task.name}, {len(task) - _unread(task)} pictures", "cyan"), Column("", right=True)], rows
    )
