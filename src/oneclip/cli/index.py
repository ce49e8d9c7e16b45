"""`oneclip index`: make, update and check indexes of images, which `oneclip search` searches."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.embed import DecodeMode
from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.search import IndexModelOption, IndexOption, IndexPrecisionOption
from oneclip.cli.search_place import is_dataset
from oneclip.errors import ConfigError, DataError, OutputError

if TYPE_CHECKING:
    from oneclip.search import Index, UpdateResult

ACTIONS = ("status", "verify", "compact", "export")
SHOWN_PATHS = 20

FOR_UPDATE, FOR_EXPORT = "To make or update an index", "For export"


class ExportTarget(str, Enum):
    """Choices of --to."""

    lance = "lance"
    qdrant = "qdrant"
    pgvector = "pgvector"


def index(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="ROOT | status | verify | compact | export",
            help="Folders of images, or one of these words and a ROOT. (A folder called status is ./status.)",
        ),
    ],
    index: IndexOption = None,
    as_json: options.JsonOption = False,
    model: IndexModelOption = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Exclude files and folders with this name, or with this path if it has a slash; repeatable, and "
            "remembered.",
            rich_help_panel=FOR_UPDATE,
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="Remove the images of folders that are missing, empty or unreadable, too.",
            rich_help_panel=FOR_UPDATE,
        ),
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Keep running, and update when files change.", rich_help_panel=FOR_UPDATE
        ),
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Make the index again, as with another model; the old one stays until the new one is complete.",
            rich_help_panel=FOR_UPDATE,
        ),
    ] = False,
    decode: Annotated[
        DecodeMode | None,
        typer.Option(
            "--decode",
            help="fast: shrink large JPEGs while decoding; nearly the same embeddings.",
            rich_help_panel=FOR_UPDATE,
        ),
    ] = None,
    device: options.DeviceOption = None,
    precision: IndexPrecisionOption = None,
    batch_size: options.BatchSizeOption = 32,
    failed: Annotated[
        bool,
        typer.Option("--failed", help="List the files that could not be read.", rich_help_panel="For status"),
    ] = False,
    recall: Annotated[
        bool,
        typer.Option(
            "--recall",
            help="Measure how many of the nearest images an approximate index finds (Lance datasets).",
            rich_help_panel="For status",
        ),
    ] = False,
    content: Annotated[
        bool,
        typer.Option(
            "--content", help="Read all files and compare their contents.", rich_help_panel="For verify"
        ),
    ] = False,
    to: Annotated[
        ExportTarget | None,
        typer.Option(
            "--to",
            help="Lance dataset (PATH.lance, s3://…), Qdrant (its URL), or PostgreSQL with pgvector (its DSN).",
            rich_help_panel=FOR_EXPORT,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Collection of Qdrant, or table. [default: oneclip, images]",
            rich_help_panel=FOR_EXPORT,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an existing Lance dataset; otherwise it is brought up to date.",
            rich_help_panel=FOR_EXPORT,
        ),
    ] = False,
) -> None:
    """Make, update and check indexes of images.

    `oneclip search` searches them, and makes one where there is none. Each ROOT has an index of its own, unless --index
    names one for all. Files whose size and time are unchanged are not read again; copies and moved files are not
    computed again. After Ctrl-C, what is done is kept.

    status lists the indexes, or shows that of a ROOT. verify compares an index with the files. compact removes what
    belongs to deleted files. export writes an index for another program.

    \b
    Examples:
      oneclip index ~/Photos --model ViT-B-32-256:datacomp_s34b_b86k
      oneclip index ~/Photos ~/Scans --index all.index --exclude "*_thumb*"
      oneclip index ~/Photos --watch
      oneclip index ~/Photos --model ViT-L-14:openai --rebuild
      oneclip index status
      oneclip index verify ~/Photos --content
      oneclip index export ~/Photos --to lance photos.lance
    """
    action, rest = (words[0], words[1:]) if words[0] in ACTIONS else ("update", words)
    _check_options(context, action)
    if action == "update":
        if rebuild and (watch or as_json):
            raise typer.BadParameter(f"--rebuild and {'--watch' if watch else '--json'} exclude each other")
        if model is not None:
            options.check_model(model)
        settings = {
            "model": model,
            "device": device,
            "precision": None if precision is None else precision.value,
            "decode": None if decode is None else decode.value,
        }
        choices = {"exclude": exclude, "prune": prune, "batch_size": batch_size}
        if rebuild:
            from oneclip.cli.index_rebuild import rebuild_indexes

            rebuild_indexes(_places(rest, index), settings, choices)
        else:
            _update_indexes(_places(rest, index), settings, choices, as_json=as_json, watch=watch)
    elif action == "status":
        _print_status(rest, index, as_json=as_json, failed=failed, recall=recall)
    elif action == "verify":
        _verify(_one_place(rest, index, action), content=content, as_json=as_json)
    elif action == "compact":
        _compact(_one_place(rest, index, action))
    else:
        from oneclip.cli.index_export import export_index

        usage = "oneclip index export [ROOT] --to lance photos.lance"
        if to is None or not rest:
            raise typer.BadParameter(
                f"{'--to' if to is None else 'the place of the export'} is missing: {usage}"
            )
        place = _one_place(rest[:-1], index, action)
        export_index(place, to.value, rest[-1], overwrite=overwrite, name=name, as_json=as_json)


_OPTIONS = {
    "update": (
        *("index", "as_json", "model", "exclude", "prune", "watch", "rebuild", "decode"),
        *("device", "precision", "batch_size"),
    ),
    "status": ("index", "as_json", "failed", "recall"),
    "verify": ("index", "as_json", "content"),
    "compact": ("index",),
    "export": ("index", "as_json", "to", "name", "overwrite"),
}  # that each action uses


def _check_options(context: typer.Context, action: str) -> None:
    """Refuse options that an action does not use."""
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name == "words" or source is None or source.name in ("DEFAULT", "DEFAULT_MAP"):
            continue
        if name not in _OPTIONS[action]:
            raise typer.BadParameter(
                f"{parameter.opts[0]} does not belong to `oneclip index {'ROOT' if action == 'update' else action}`"
            )


# ------------------------------------------------------------------------------------------------- which index is meant


def _places(roots: Sequence[str], index: str | None) -> dict[Path, list[str]]:
    """Return the roots of each index to update.

    Raises:
        DataError: for a root that does not exist and has no index.
        ConfigError: for a root inside another one that has an index.
    """
    from oneclip.search.catalogue import FILE
    from oneclip.search.places import covering_index, index_for_root, real_root, require_images

    places: dict[Path, list[str]] = {}
    for root in roots:
        place = Path(index).expanduser() if index is not None else index_for_root(root)
        if not os.path.isdir(os.path.expanduser(root)) and not (place / FILE).is_file():
            what = "is a file; expected a folder" if os.path.exists(root) else "no such folder"
            raise DataError(f"{root}: {what}")
        if not (place / FILE).is_file():
            require_images(os.path.expanduser(root))
        above = None if index is not None else covering_index(root)
        if above is not None and above[1] != real_root(root):
            raise ConfigError(
                f"{root} is in the index of {above[1]}; update that: oneclip index {above[1]} "
                "(or name a place for an index of its own with --index)"
            )
        places.setdefault(place, []).append(root)
    return places


def _one_place(roots: Sequence[str], index: str | None, action: str) -> Path:
    """Return the index that an action means: --index, that of ROOT, or that of the current folder."""
    from oneclip.search.places import covering_index

    if index is not None:
        if roots:
            raise typer.BadParameter(f"give --index or a ROOT: oneclip index {action} --index {index}")
        return Path(index).expanduser()
    if len(roots) > 1:
        raise typer.BadParameter(f"{len(roots)} folders given: oneclip index {action} ROOT")
    root = roots[0] if roots else os.curdir
    found = covering_index(root)
    if found is None:
        shown = root if roots else "the current folder"
        raise DataError(f"there is no index of {shown}; `oneclip index status` lists all indexes")
    return found[0]


# --------------------------------------------------------------------------------------------------------- the actions


def _update_indexes(
    places: dict[Path, list[str]],
    settings: dict[str, Any],
    choices: dict[str, Any],
    *,
    as_json: bool,
    watch: bool,
) -> None:
    from oneclip.cli.index_updates import report_update, update_with_progress
    from oneclip.search import Index
    from oneclip.search.places import real_root

    answers, is_unread = [], False
    for place, roots in places.items():
        with Index(place, **settings) as opened:
            result = update_with_progress(opened, *roots, **choices)
            report_update(result, opened, pruned=choices["prune"])
            status = opened.status()
        echo_stderr(f"{' '.join(roots)}: {result}")
        echo_stderr(f"{status.files} images by {status.model}: {status.path}")
        options.note_pocket_scope(status.model)
        unread = {failure.name for failure in result.unlisted}
        is_unread |= any(real_root(root) in unread for root in roots)
        answers.append({"index": status.path, "roots": roots, "model": status.model, **_json(result)})
    if as_json:
        print(json.dumps(answers, indent=2), flush=True)
    if watch:
        _watch(places, settings, choices)
    elif is_unread and not choices["prune"]:
        raise typer.Exit(ExitCode.ERROR)


def _json(result: UpdateResult) -> dict[str, Any]:
    return {
        **{key: value for key, value in vars(result).items() if isinstance(value, int)},
        "failures": [{"path": one.name, "reason": one.reason} for one in result.failures],
        "unlisted": [{"path": one.name, "reason": one.reason} for one in result.unlisted],
        "not_read": dict(result.not_read),
    }


def _watch(places: dict[Path, list[str]], settings: dict[str, Any], choices: dict[str, Any]) -> None:
    """Update whenever files change, until Ctrl-C."""
    from oneclip.search import Index
    from oneclip.search.updating import watch_pause

    indexes = {place: Index(place, **settings) for place in places}
    unread: dict[Path, set[str]] = {place: set() for place in places}  # folders, so that each is named once
    echo_stderr("watching for changes; Ctrl-C ends")
    try:
        while True:
            started = monotonic()
            for place, roots in places.items():
                _update_watched(indexes[place], roots, choices, unread[place])
            sleep(watch_pause(monotonic() - started))
    except KeyboardInterrupt:
        echo_stderr("watching ended; the index is complete up to here")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _update_watched(index: Index, roots: Sequence[str], choices: dict[str, Any], unread: set[str]) -> None:
    try:
        result = index.update(*roots, **choices)
    except (
        DataError,
        OutputError,
    ) as error:  # such as a search that updates it now, or a disk that was unmounted
        echo_stderr(f"not updated: {error}", kind="note")
        return
    if result.failures or any((result.added, result.changed, result.moved, result.removed)):
        echo_stderr(f"{' '.join(roots)}: {result}")
    for failure in result.unlisted:
        if failure.name not in unread:
            echo_stderr(f"{failure}; its images stay in the index", kind="note")
    unread.clear()
    unread.update(failure.name for failure in result.unlisted)


def _print_status(
    roots: Sequence[str], index: str | None, *, as_json: bool, failed: bool, recall: bool
) -> None:
    from oneclip.cli import index_status

    if index is not None and is_dataset(index):
        index_status.print_dataset(index, as_json=as_json, recall=recall)
    elif roots or index is not None:
        index_status.print_one(_one_place(roots, index, "status"), as_json=as_json, failed=failed)
    else:
        index_status.print_all(as_json=as_json, failed=failed)


def _verify(place: Path, *, content: bool, as_json: bool) -> None:
    from oneclip.cli.progress_bars import message_if_slow
    from oneclip.search import Index

    with Index(place, create=False) as opened, message_if_slow(f"comparing {place} with the files …"):
        result = opened.verify(content=content)
    if as_json:
        print(json.dumps(asdict(result), indent=2))
    else:
        for what, paths in (
            ("damaged", result.damaged),
            ("changed", result.changed),
            ("missing", result.missing),
        ):
            for path in paths[:SHOWN_PATHS]:
                typer.echo(f"{what}: {path}")
            if len(paths) > SHOWN_PATHS:
                typer.echo(f"{what}: {len(paths) - SHOWN_PATHS} more")
    found = len(result.damaged) + len(result.changed) + len(result.missing)
    what = "contents compared" if content else "no contents compared (--content)"
    if found:
        differences = f"{found} difference{'' if found == 1 else 's'}"
        echo_stderr(f"{result.checked} {what}; {differences}, which the next update repairs")
        raise typer.Exit(ExitCode.ERROR)
    echo_stderr(f"{result.checked} {what}; no differences" if content else f"no differences; {what}")


def _compact(place: Path) -> None:
    from oneclip.search import Index

    with Index(place, create=False) as opened:
        before = opened.status().bytes
        removed = opened.compact()
        saved = max(0, before - opened.status().bytes)
    embeddings = f"{removed} embedding{'' if removed == 1 else 's'}"
    echo_stderr(f"{place}: {embeddings} of deleted files removed, {saved / 1e6:,.1f} MB")
