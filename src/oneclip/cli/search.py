"""`oneclip search`: find images by words and by images."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr
from oneclip.cli.search_place import find_place, is_dataset
from oneclip.cli.search_request import SearchRequest, check_request, split_words
from oneclip.errors import OutputError

if TYPE_CHECKING:
    from oneclip.search import Index, SearchResults
    from oneclip.search.places import SearchPlace

DEFAULT_TOP = 20
TO_FIND, TO_SHOW = "What to find", "How to show it"


class SortChoice(str, Enum):
    """Choices of --sort."""

    relevance = "relevance"
    date = "date"


IndexPrecisionOption = Annotated[
    options.PrecisionChoice | None,
    typer.Option(
        "--precision", help="Precision of the model. [default: that of the index; of a new one fp32]"
    ),
]
IndexModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Name from `oneclip models`. [default: that of the index; of a new one pocket]",
    ),
]
IndexOption = Annotated[
    str | None,
    typer.Option("--index", metavar="PATH", help="Folder of the index. [default: in the user's data folder]"),
]


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY",
            help="Words; images (- is stdin); 2:beach counts twice. A folder is where to search, as --dir.",
        ),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option(
            "--dir",
            "-d",
            metavar="ROOT",
            help="Folder to search. [default: the current one]",
            rich_help_panel=TO_FIND,
        ),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            "--like",
            metavar="IMAGE",
            help="Image that the results should look like; repeatable.",
            rich_help_panel=TO_FIND,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="TEXT",
            help="What the results should not show; repeatable.",
            rich_help_panel=TO_FIND,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="EXPR",
            help="Filter: \"taken_at >= 2023-05 and camera ~ 'Pixel'\".",
            rich_help_panel=TO_FIND,
        ),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", min=1, metavar="N", help="Number of results.", rich_help_panel=TO_FIND)
    ] = DEFAULT_TOP,
    sort: Annotated[
        SortChoice,
        typer.Option(
            "--sort", help="Order of the results: best first, or newest first.", rich_help_panel=TO_FIND
        ),
    ] = SortChoice.relevance,
    min_relevance: Annotated[
        float | None,
        typer.Option(
            "--min-relevance",
            min=0,
            max=1,
            metavar="R",
            help="Hide results below, from 0 to 1.",
            rich_help_panel=TO_FIND,
        ),
    ] = None,
    distinct: Annotated[
        bool,
        typer.Option(
            "--distinct", help="Leave out results that look like a better one.", rich_help_panel=TO_FIND
        ),
    ] = False,
    files: Annotated[
        bool, typer.Option("--files", help="Print only the paths, one per line.", rich_help_panel=TO_SHOW)
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="Print only the paths, each followed by a null character.",
            rich_help_panel=TO_SHOW,
        ),
    ] = False,
    as_json: options.JsonOption = False,
    no_thumbnails: Annotated[
        bool,
        typer.Option(
            "--no-thumbnails",
            help="Print no thumbnails, even if the terminal shows images.",
            rich_help_panel=TO_SHOW,
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="PAGE",
            help="Write a page with thumbnails of the results.",
            rich_help_panel=TO_SHOW,
        ),
    ] = None,
    copy_to: Annotated[
        Path | None,
        typer.Option(
            "--copy-to", metavar="DIR", help="Copy the results, numbered by rank.", rich_help_panel=TO_SHOW
        ),
    ] = None,
    link_to: Annotated[
        Path | None,
        typer.Option(
            "--link-to", metavar="DIR", help="Make links to the results likewise.", rich_help_panel=TO_SHOW
        ),
    ] = None,
    no_update: Annotated[
        bool, typer.Option("--no-update", help="Search the index as it is, without looking for new images.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            metavar="PATH",
            help="Folder of the index, or a Lance dataset (also s3://…). [default: in the user's data folder]",
        ),
    ] = None,
    model: IndexModelOption = None,
    device: options.DeviceOption = None,
    precision: IndexPrecisionOption = None,
    batch_size: options.BatchSizeOption = 32,
) -> None:
    """Find images by words and by images.

    The first search in a folder indexes its images; after Ctrl-C, what is done is kept. Later searches index only new
    and changed images. Relevance is the probability that an image shows the words.

    \b
    Examples:
      oneclip search "a cat"
      oneclip search "a red car" ~/Photos --top 5
      oneclip search beach sunset --not people --where "taken_at >= 2023-05" -d ~/Photos
      oneclip search 2:beach ./garden.jpg --html beach.html
      oneclip search "a cat" --copy-to cats/ --min-relevance 0.5
    """
    if sum((files or null, as_json)) > 1:
        raise typer.BadParameter("--json and --files exclude each other")
    texts, root = split_words(words or [], folder)
    request = check_request(texts, like or [], exclude or [], min_relevance)
    if where is not None:
        from oneclip.search.filter_syntax import parse_filter

        parse_filter(where)
    _check_outputs(html, copy_to, link_to)
    if model is not None:
        options.check_model(model)
    if index is not None and is_dataset(index):
        from oneclip.search.places import SearchPlace

        under = None if root is None else os.path.realpath(os.path.expanduser(root))
        place = SearchPlace(Path(index), under=under)
    else:
        place = find_place(index, root, no_update=no_update)
    settings: dict[str, Any] = {
        "model": model,
        "device": device,
        "precision": None if precision is None else precision.value,
    }
    location = index or place.path
    with _open(location, no_update, settings) as opened:
        if not no_update and not is_dataset(location):
            _update(opened, place, batch_size)
        results = _search(
            opened,
            request,
            where=where,
            top_k=top,
            sort=sort.value,
            min_relevance=min_relevance,
            distinct=distinct,
            under=place.under,
        )
    _report_left_out(results, where, place.under, min_relevance)
    shown = ["the image from stdin" if text == "-" else text for text in texts]
    shown += [f"like {image}" for image in like or []] + [f"not {text}" for text in exclude or []]
    _write_outputs(
        results, ", ".join(shown), html, copy_to, link_to, place
    )  # first: `| head` ends the printing
    _print_results(results, files=files, null=null, as_json=as_json, thumbnails=not no_thumbnails)


def _check_outputs(html: Path | None, copy_to: Path | None, link_to: Path | None) -> None:
    """Check what can be checked before the search."""
    if copy_to is not None and link_to is not None:
        raise typer.BadParameter("--copy-to and --link-to exclude each other")
    target = copy_to or link_to
    if target is not None and target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file; expected a folder for the results")
    if html is not None and (html.is_dir() or not html.absolute().parent.is_dir()):
        what = "is a folder" if html.is_dir() else f"cannot be written: no folder {html.absolute().parent}"
        raise OutputError(f"{html} {what}; expected a path such as results.html")


def _update(index: Index, place: SearchPlace, batch_size: int) -> None:
    """Update an index. If that is not possible, search what is there."""
    from oneclip.cli.index_updates import report_update, update_with_progress

    roots = [] if place.root is None else [place.root]
    try:
        result = update_with_progress(index, *roots, under=place.relative, batch_size=batch_size)
    except OutputError as error:
        if not index.status().files:
            raise
        echo_stderr(f"not updated: {error}", kind="note")
        return
    report_update(result, index)


def _open(location: str | Path, no_update: bool, settings: dict[str, Any]) -> Any:
    """Open an index, or a Lance dataset; both can be searched alike."""
    if is_dataset(location):
        from oneclip.search.handover import open_index

        return open_index(location, **settings)
    from oneclip.search import Index

    return Index(location, create=not no_update, **settings)


def _search(index: Any, request: SearchRequest, **choices: Any) -> SearchResults:
    from oneclip.cli.progress_bars import message_if_slow

    with message_if_slow(f"loading {index.model_name} …"):
        _ = index.encoder
    results: SearchResults = index.search(
        *request.queries, like=request.like, exclude=request.exclude, **choices
    )
    options.note_pocket_scope(index.model_name)
    return results


def _report_left_out(
    results: SearchResults, where: str | None, under: str | None, min_relevance: float | None
) -> None:
    if not results.searched:
        reason = (
            f"no image matches --where {where!r}" if where is not None else f"no indexed image in {under}"
        )
        echo_stderr(reason, kind="note")
    if results.hidden:
        echo_stderr(
            f"{results.hidden} result{'' if results.hidden == 1 else 's'} hidden: relevance below {min_relevance}",
            kind="note",
        )


def _print_results(
    results: SearchResults, *, files: bool, null: bool, as_json: bool, thumbnails: bool
) -> None:
    from oneclip.cli import search_output

    if files or null:
        search_output.print_paths((hit.path for hit in results.hits), b"\0" if null else b"\n")
    elif as_json:
        print(json.dumps(results.to_dict(), indent=2))
    elif results.hits:
        search_output.print_hits(results, thumbnails=thumbnails)


def _write_outputs(
    results: SearchResults,
    title: str,
    html: Path | None,
    copy_to: Path | None,
    link_to: Path | None,
    place: SearchPlace,
) -> None:
    if html is not None:
        from oneclip.search.contact_sheet import write_contact_sheet

        unreadable = write_contact_sheet(html, results, title)
        note = f" ({unreadable} could not be read)" if unreadable else ""
        echo_stderr(f"{html}: {len(results.hits)} images{note}")
    if copy_to is not None or link_to is not None:
        from oneclip.cli.images import echo_skipped
        from oneclip.search.collect import collect_files

        folder = copy_to or link_to or Path()
        done = collect_files([hit.path for hit in results.hits], folder, link=link_to is not None)
        echo_skipped(done.failures)
        what = "links made" if link_to is not None else "images copied"
        existing = f", {done.existing} already there" if done.existing else ""
        echo_stderr(f"{folder}: {done.made} {what}{existing}")
        root = place.root
        if root is not None and os.path.realpath(folder).startswith(root.rstrip(os.sep) + os.sep):
            echo_stderr(f"{folder} is inside the indexed folder {root}, so it is indexed, too", kind="note")
