"""`oneclip evaluate`: measure zero-shot classification or image-text retrieval."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode
from oneclip.cli.images import echo_not_read, echo_skipped
from oneclip.embed.items import Failure
from oneclip.hub.file_types import UnsupportedFiles

if TYPE_CHECKING:
    from oneclip.evaluate import Task


def evaluate(
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="TABLE|FOLDER",
            help="CSV or Parquet file with an image and a caption per row, or a folder with one folder of images per "
            "class.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Name from `oneclip models`, a file or a folder."),
    ] = None,
    model_option: options.ModelAliasOption = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder that image paths are relative to. [default: the table's folder]",
        ),
    ] = None,
    templates: Annotated[
        str,
        typer.Option(
            "--templates",
            metavar="simple|imagenet|FILE|TEXT",
            help="Prompts for classes: 7 or 80 of ImageNet's, a file with one per line, or one prompt; {} is the name.",
        ),
    ] = "simple",
    image_column: Annotated[
        str, typer.Option("--image-column", metavar="NAME", help="Column with image paths.")
    ] = "filepath",
    caption_column: Annotated[
        str, typer.Option("--caption-column", metavar="NAME", help="Column with captions.")
    ] = "caption",
    separator: Annotated[
        str | None,
        typer.Option(
            "--separator", metavar="CHAR", help="Separator of CSV columns, or tab. [default: detected]"
        ),
    ] = None,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    batch_size: options.BatchSizeOption = 32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
    skip: Annotated[
        bool,
        typer.Option("--skip", help="Skip images that do not exist; otherwise they are an error."),
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Measure the accuracy of a model.

    A folder of classes (FOLDER/CLASS/image) measures zero-shot classification; an underscore in a class name is a
    space. A table measures retrieval in both directions; if an image has several captions, or a caption several
    images, any of them counts. Images that cannot be read are skipped and listed, and the exit code is 3.

    \b
    Examples:
      oneclip evaluate pocket --data held_out.csv --images images/
      oneclip evaluate ViT-B/32 --data imagenet/val/ --templates imagenet --json
    """
    name = options.require_one_model(model, model_option, "oneclip evaluate MODEL --data DATA")
    options.check_model(name)
    from oneclip.cli.progress_bars import progress_bar
    from oneclip.evaluate import Classification, EncoderAdapter, open_task, read_templates

    task = open_task(
        data,
        images=images,
        image_column=image_column,
        caption_column=caption_column,
        separator=_parse_separator(separator),
        templates=read_templates(templates),
        skip_missing=skip,
    )
    encoder = options.load_encoder(name, device, precision, max_pixels, truncated)
    with progress_bar("images", len(task)) as advance:
        results = task(EncoderAdapter(encoder, batch_size=batch_size, advance=advance))
    skipped = [Failure(name, why) for name, why in task.skipped.items()]
    if as_json:
        print(json.dumps(_json_report(encoder.name, task, results, skipped), indent=2))
    else:
        _print_results(task, results)
    echo_skipped(skipped)
    echo_not_read(task.not_read if isinstance(task, Classification) else UnsupportedFiles())
    if skipped:
        raise typer.Exit(ExitCode.SKIPPED)


def _parse_separator(given: str | None) -> str | None:
    if given is None:
        return None
    separator = "\t" if given in ("\\t", "tab") else given
    if len(separator) != 1:
        raise typer.BadParameter(f"--separator is {given!r}; expected one character, or tab")
    return separator


def _json_report(model: str, task: Task, results: dict[str, float], skipped: list[Failure]) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "model": model,
        "data": task.name,
        "images": len(task) - _unread(task),
        "results": results,
    }
    per_class = getattr(task, "per_class", None)
    if per_class is not None:
        answer["per_class"] = per_class
    return answer | {"skipped": [{"path": one.name, "reason": one.reason} for one in skipped]}


def _unread(task: Task) -> int:
    """Count the images that exist and could not be read."""
    return len(task.skipped) - len(getattr(task, "missing", {}))


def _print_results(task: Task, results: dict[str, float]) -> None:
    from oneclip.cli.table_output import Column, print_table

    rows = [[key.replace("_", " "), f"{value:.4f}"] for key, value in results.items()]
    images = len(task) - _unread(task)
    title = f"{task.name}, {images} image{'s' * (images != 1)}"
    print_table([Column(title, "cyan"), Column("", right=True)], rows)
