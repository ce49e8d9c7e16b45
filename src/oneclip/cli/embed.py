"""`oneclip embed`: pictures or captions to vectors on disk."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, say
from oneclip.cli.pictures import tell_skipped
from oneclip.errors import ConfigError, DataError, ImageError

if TYPE_CHECKING:
    from oneclip.embed.items import Source
    from oneclip.embed.run import Decode, Outcome
    from oneclip.embed.store import Store
    from oneclip.encoder import Encoder


class DecodeMode(str, Enum):
    """How pictures are decoded."""

    exact = "exact"
    fast = "fast"


class FolderFormat(str, Enum):
    """What the parts in a folder are."""

    parquet = "parquet"
    npz = "npz"


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Pictures, folders, patterns, lists (@list.txt), tables (.csv, .parquet), shards (.tar).",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file that ends in .npz or .parquet, a folder for parts (also s3://…), or a dataset (.lance).",
        ),
    ],
    model: options.Model = "pocket",
    texts: Annotated[
        bool, typer.Option("--texts", help="Captions instead of pictures: lines, a column, .txt of shards.")
    ] = False,
    column: Annotated[
        str | None,
        typer.Option(
            "--column", metavar="NAME", help="Column of tables with paths, URLs, bytes, or captions."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="What paths in lists and tables are relative to. [default: their own folder]",
        ),
    ] = None,
    decode: Annotated[
        DecodeMode,
        typer.Option(
            "--decode", help="fast shrinks large JPEGs while it reads them: nearly the same vectors."
        ),
    ] = DecodeMode.exact,
    truncate: Annotated[
        bool,
        typer.Option("--truncate", help="Cut captions that are too long; else they count as unreadable."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", metavar="FOLDER", help="Keep vectors by content, for other outputs as well."),
    ] = None,
    parts: Annotated[
        FolderFormat, typer.Option("--parts", help="Format of the parts, where OUT is a folder.")
    ] = FolderFormat.parquet,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, whatever OUT holds; else the run goes on.")
    ] = False,
    device: options.Device = None,
    precision: options.PrecisionOption = options.Precision.fp32,
    batch_size: options.BatchSize = 32,
    max_pixels: options.MaxPixels = None,
    skip: options.Skip = False,
) -> None:
    """Write the vectors of pictures, or of captions, to disk.

    What is done is safe on disk every 20 seconds: after Ctrl-C, a crash or an error the same command goes
    on from there, and run again later it encodes only what is new or has changed. What cannot be read is
    listed in OUT.errors.csv with its reason; the others are written nevertheless.

    \b
    Examples:
      oneclip embed holiday/ -o vectors.npz
      oneclip embed "shards/{000..010}.tar" -o vectors/ --model ViT-B/32 --decode fast --skip
      oneclip embed shop.csv --column image_url -o vectors.parquet
      oneclip embed captions.txt --texts -o captions.npz
    """
    from oneclip.embed.outputs import check_output
    from oneclip.embed.store import Store

    suffix = f".{parts.value}"
    try:
        check_output(output, suffix, overwrite=overwrite)
    except ConfigError as error:
        raise typer.BadParameter(f"--output {error}") from error
    found = _find(sources, texts, column, images, skip)
    encoder = options.load_encoder(model, device, precision, max_pixels)
    from oneclip.embed.rows import Facts

    how: Decode = ("cut" if truncate else "text") if texts else decode.value
    with Store(output, Facts.of(encoder, how), overwrite=overwrite, folder_suffix=suffix) as store:
        for path in store.damaged:
            say(f"{path} could not be read; what was in it is encoded again", kind="note")
        if store.safe:
            say(f"going on: {store.safe} vectors of earlier runs are there", kind="note")
        outcome = _run(encoder, found, store, how, batch_size, cache)
    _tell(outcome, encoder, store, how, skip)


def _find(words: list[str], texts: bool, column: str | None, images: Path | None, skip: bool) -> list[Source]:
    """The sources; a path that leads nowhere is an error before the work, unless it may be left out."""
    from oneclip.embed.sources import find_sources
    from oneclip.embed.sources.files import Files

    found = find_sources(words, texts=texts, column=column, folder=None if images is None else str(images))
    files = [source for source in found if isinstance(source, Files)]
    for failure in (failure for source in files for failure in source.failures):
        if not skip:
            raise ImageError(f"{failure}; --skip leaves such paths out")
    if not any(not isinstance(source, Files) or source.paths for source in found):
        tell_skipped([failure for source in files for failure in source.failures])
        raise ImageError("no picture is left")
    return found


def _run(
    encoder: Encoder, sources: list[Source], store: Store, how: Decode, batch_size: int, cache: Path | None
) -> Outcome:
    """Do the work; however it ends, say what is kept."""
    from contextlib import nullcontext

    from oneclip.cli.progress import reports
    from oneclip.embed.cache import Cache
    from oneclip.embed.run import Outcome, embed

    outcome = Outcome()
    kept = nullcontext() if cache is None else Cache(cache, store.facts)
    try:
        with kept as base, reports(store.facts.kind) as report:
            return embed(
                encoder,
                sources,
                store,
                decode=how,
                batch_size=batch_size,
                cache=base,
                report=report,
                outcome=outcome,
            )
    except BaseException:
        if store.safe:
            say(
                f"{store.safe} {store.facts.kind} are kept: the same command goes on from there",
                kind="note",
            )
        raise


def _tell(outcome: Outcome, encoder: Encoder, store: Store, how: Decode, skip: bool) -> None:
    """The end of a run, for a person; exits with a code that says how it went."""
    tell_skipped(outcome.first_failures)
    kind = store.facts.kind
    if not outcome.rows:
        raise DataError(f"none of the {kind} could be read; {outcome.errors} has the reasons")
    made = f"{outcome.encoded} encoded" + "".join(
        f", {count} {what}"
        for count, what in ((outcome.kept, "from earlier"), (outcome.repeated, "known by content"))
        if count
    )
    decoded = f", decode {how}" if kind == "pictures" else ""
    say(
        f"{outcome.rows} {kind}, {encoder.embed_dim} numbers each, by {encoder.name} "
        f"({encoder.precision}{decoded}): {store.output} ({made})"
    )
    if outcome.failed:
        say(f"{outcome.failed} could not be read: {outcome.errors} has the reasons")
        raise typer.Exit(ExitCode.SKIPPED if skip else ExitCode.ERROR)
