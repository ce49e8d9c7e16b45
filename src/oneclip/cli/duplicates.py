"""`oneclip duplicates`: list groups of equal and similar images."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr
from oneclip.cli.index_roots import NoUpdateOption, OpenIndex, open_roots
from oneclip.cli.search import IndexModelOption, IndexOption, IndexPrecisionOption

if TYPE_CHECKING:
    from oneclip.search.duplicates import DuplicateGroup

LABELS = {"bytes": "equal", "pixels": "equal pixels", "near": "near"}


class KindChoice(str, Enum):
    """Choices of --kind."""

    bytes = "bytes"
    pixels = "pixels"
    near = "near"


def duplicates(
    roots: Annotated[list[str], typer.Argument(metavar="ROOT", help="Folders of images.")],
    near: Annotated[
        float,
        typer.Option(
            "--near", min=0.5, max=1, metavar="COSINE", help="Least cosine of near images, from 0.5 to 1."
        ),
    ] = 0.96,
    kind: Annotated[
        KindChoice,
        typer.Option(
            "--kind",
            help="What counts: equal bytes; also equal pixels at other sizes and formats; also near images.",
        ),
    ] = KindChoice.near,
    files: Annotated[
        bool,
        typer.Option("--files", help="Print only the paths of all files but the best of each group."),
    ] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="As --files, each followed by a null character.")
    ] = False,
    as_json: options.JsonOption = False,
    no_update: NoUpdateOption = False,
    index: IndexOption = None,
    model: IndexModelOption = None,
    device: options.DeviceOption = None,
    precision: IndexPrecisionOption = None,
    batch_size: options.BatchSizeOption = 32,
) -> None:
    """List groups of equal and similar images, the best copy first. Nothing is deleted.

    Near images look alike to the model and have similar perceptual hashes: crops, edits, and photographs of one
    burst. Look at them before you delete any; equal bytes and equal pixels are safe.

    \b
    Examples:
      oneclip duplicates ~/Photos
      oneclip duplicates ~/Photos /media/backup --kind pixels --json
      oneclip duplicates ~/Photos --kind bytes --files > copies.txt
    """
    if (files or null) and as_json:
        raise typer.BadParameter("--json and --files exclude each other")
    if model is not None:
        options.check_model(model)
    settings = {
        "model": model,
        "device": device,
        "precision": None if precision is None else precision.value,
    }
    with open_roots(roots, index, no_update=no_update, batch_size=batch_size, settings=settings) as opened:
        groups = _find(opened, near, kind)
        if files or null:
            _print_spare(groups, b"\0" if null else b"\n")
        elif as_json:
            print(json.dumps(_json(opened, groups), indent=2))
        else:
            _print_table(groups)
    _report(groups, opened)


def _find(opened: Sequence[OpenIndex], near: float, kind: KindChoice) -> list[DuplicateGroup]:
    from oneclip.cli.progress_bars import progress_bar
    from oneclip.search.duplicates import count_images, group_duplicates

    collections = [(one.index, one.entries()) for one in opened]
    with progress_bar("images", count_images(collections)) as advance:
        return group_duplicates(collections, near, kind=kind.value, report=advance)


def _print_spare(groups: Sequence[DuplicateGroup], end: bytes) -> None:
    """Print the paths of all files but the best of each group, as the file system spells them."""
    content = b"".join(os.fsencode(file.path) + end for group in groups for file in group.files[1:])
    sys.stdout.flush()
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:  # a replacement for text, which a test or a closed stream is
        sys.stdout.write(content.decode("utf-8", "surrogateescape"))


def _json(opened: Sequence[OpenIndex], groups: Sequence[DuplicateGroup]) -> dict[str, Any]:
    paths = [str(one.index.path) for one in opened]
    return {
        "index": paths[0] if len(paths) == 1 else paths,
        "model": opened[0].index.model_name,
        "groups": [group.to_dict() for group in groups],
    }


def _print_table(groups: Sequence[DuplicateGroup]) -> None:
    from oneclip.cli.search_output import short_path
    from oneclip.cli.table_output import Column, print_table

    if not groups:
        return
    rows = []
    for number, group in enumerate(groups, 1):
        for i, (file, kind, similarity) in enumerate(
            zip(group.files, group.kinds, group.similarities, strict=True)
        ):
            name = f"{LABELS[kind]} {similarity:.3f}" if kind == "near" else LABELS[kind]
            size = f"{file.facts.width} × {file.facts.height}"
            first = [str(number), "best"] if i == 0 else ["", name]
            rows.append([*first, size, format_size(file.size or 0), short_path(file.path)])
    columns = [
        Column("group", right=True),
        Column("", "green", whole=True),
        Column("pixels", right=True, optional=True),
        Column("size", right=True),
        Column("image", "cyan"),
    ]
    print_table(columns, rows)


def _report(groups: Sequence[DuplicateGroup], opened: Sequence[OpenIndex]) -> None:
    if not groups:
        echo_stderr("no duplicates")
        return
    count = sum(len(group.files) for group in groups)
    spare = format_size(sum(group.spare_bytes for group in groups))
    echo_stderr(f"{len(groups)} group{'s' * (len(groups) > 1)}, {count} files, {spare} could be freed")


def format_size(count: int) -> str:
    """Format a number of bytes: 512 B, 8.4 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
