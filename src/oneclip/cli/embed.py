"""`oneclip embed`: pictures or captions to vectors on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, say
from oneclip.cli.images import tell_not_read, tell_skipped
from oneclip.errors import ConfigError, DataError, ImageError

if TYPE_CHECKING:
    from oneclip.embed.batch_encoder import Decode
    from oneclip.embed.items import Source
    from oneclip.embed.rows import Facts
    from oneclip.embed.run import Outcome
    from oneclip.embed.store import Store
    from oneclip.embed.throughput import Report
    from oneclip.encoder import Encoder
    from oneclip.image import Truncated


class DecodeMode(str, Enum):
    """How pictures are decoded."""

    exact = "exact"
    fast = "fast"


class Stored(str, Enum):
    """What vectors are written in."""

    fp32 = "fp32"
    fp16 = "fp16"


class FolderFormat(str, Enum):
    """What the parts in a folder are."""

    parquet = "parquet"
    npz = "npz"


class Engine(str, Enum):
    """Where the work is done."""

    local = "local"
    ray = "ray"


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Pictures, folders, patterns, lists (@list.txt, @- is stdin), tables (.csv, .parquet), shards.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--out",
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
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id-column",
            metavar="NAME",
            help="Column of tables that rows are called by, instead of the path.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Leave out files and folders of this name, or path where it has a slash; several times.",
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
    output_precision: Annotated[
        Stored,
        typer.Option("--output-precision", help="What the vectors are written in; fp16 is half as large."),
    ] = Stored.fp32,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read files also where size and time are those of the last run, and compare content.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Start again and replace what OUT holds; otherwise the run resumes."
        ),
    ] = False,
    engine: Annotated[
        Engine, typer.Option("--engine", help="This process, or workers of a Ray cluster (oneclip[ray]).")
    ] = Engine.local,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Of the cluster. [default: as many as there is room for]"
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="ADDRESS",
            help="Of a running cluster (auto, HOST:6379). [default: RAY_ADDRESS, or one is started here]",
        ),
    ] = None,
    device: options.Device = None,
    precision: options.PrecisionOption = options.Precision.fp32,
    batch_size: options.BatchSize = 32,
    max_pixels: options.MaxPixels = None,
    truncated: options.TruncatedOption = options.Truncated.refuse,
    skip: options.Skip = False,
    as_json: options.Json = False,
) -> None:
    """Write the vectors of pictures, or of captions, to disk.

    What is done is safe on disk every 20 seconds: after Ctrl-C, a crash or an error the same command goes
    on from there, and run again later it encodes only what is new or has changed. What cannot be read is
    listed in OUT.errors.csv with its reason; the others are written nevertheless.

    \b
    Examples:
      oneclip embed drawings/ -o vectors.npz
      oneclip embed holiday/ -o vectors.npz --model ViT-B-32-256:datacomp_s34b_b86k
      oneclip embed "shards/{000..010}.tar" -o vectors/ --model ViT-B/32 --decode fast --skip
      oneclip embed icons.csv --column image_url --id-column sku -o vectors.parquet
      find . -name "*.png" | oneclip embed @- -o vectors.npz --exclude "*_thumb*" --json
      oneclip embed captions.txt --texts -o captions.npz
      oneclip embed s3://bucket/icons -o s3://bucket/vectors --engine ray
    """
    options.find_model(model)
    from oneclip.embed.outputs import check_output
    from oneclip.embed.sources import find_sources
    from oneclip.embed.sources.tables import Table

    suffix = f".{parts.value}"
    try:
        check_output(output, suffix, overwrite=overwrite)
    except ConfigError as error:
        raise typer.BadParameter(f"--out {error}") from error
    _check_engine(engine, workers, ray_address, cache)
    how: Decode = ("cut" if truncate else "text") if texts else decode.value
    find = partial(
        find_sources,
        texts=texts,
        column=column,
        folder=None if images is None else str(images),
        id_column=id_column,
        exclude=exclude or (),
    )
    found = _find(find(sources), skip)
    if id_column is not None and not any(isinstance(source, Table) for source in found):
        raise typer.BadParameter("--id-column is a column of tables, and no SOURCE is one")
    from oneclip.embed.store import Store

    def opened(facts: Facts) -> Store:
        facts = replace(facts, stored=output_precision.value)
        return Store(output, facts, overwrite=overwrite, folder_suffix=suffix)

    if engine is Engine.ray:
        options.tell_pocket(model)
        load = partial(_load, model, precision.value, max_pixels, truncated.value)
        store, outcome, width = _on_cluster(
            load, device, workers, ray_address, opened, found, how, batch_size, verify
        )
    else:
        encoder = options.load_encoder(model, device, precision, max_pixels, truncated)
        store, outcome = _here(encoder, opened, found, how, batch_size, cache, verify)
        width = encoder.embed_dim
    if as_json:
        print(json.dumps(_answer(outcome, store, width), indent=2))
    _tell(outcome, store, width, how, skip)


def _check_engine(engine: Engine, workers: int | None, ray_address: str | None, cache: Path | None) -> None:
    """Refuse options that belong to the other engine."""
    if engine is Engine.ray and cache is not None:
        raise typer.BadParameter("--cache is a folder of this machine, and belongs to --engine local")
    for option, value in (("--workers", workers), ("--ray-address", ray_address)):
        if engine is Engine.local and value is not None:
            raise typer.BadParameter(f"{option} belongs to --engine ray")


def _find(found: list[Source], skip: bool) -> list[Source]:
    """The sources; a path that leads nowhere is an error before the work, unless it may be left out."""
    from oneclip.embed.sources.files import Files

    files = [source for source in found if isinstance(source, Files)]
    for failure in (failure for source in files for failure in source.failures):
        if not skip:
            raise ImageError(f"{failure}; --skip leaves such paths out")
    if not any(not isinstance(source, Files) or source.paths for source in found):
        tell_skipped([failure for source in files for failure in source.failures])
        raise ImageError("no picture is left")
    return found


def _here(
    encoder: Encoder,
    opened: Callable[[Facts], Store],
    sources: list[Source],
    how: Decode,
    batch_size: int,
    cache: Path | None,
    verify: bool,
) -> tuple[Store, Outcome]:
    """Do the work in this process."""
    from oneclip.embed.cache import Cache
    from oneclip.embed.rows import Facts
    from oneclip.embed.run import embed

    facts = Facts.of(encoder, how)
    with (
        _going_on(opened(facts)) as (store, report),
        nullcontext() if cache is None else Cache(cache, facts) as base,
    ):
        outcome = embed(
            encoder,
            sources,
            store,
            decode=how,
            batch_size=batch_size,
            cache=base,
            verify=verify,
            report=report,
        )
    return store, outcome


def _on_cluster(
    load: Callable[..., Encoder],
    device: str | None,
    workers: int | None,
    address: str | None,
    opened: Callable[[Facts], Store],
    sources: list[Source],
    how: Decode,
    batch_size: int,
    verify: bool,
) -> tuple[Store, Outcome, int]:
    """Do the work on a Ray cluster; the last of the three is D."""
    from oneclip.cli.progress_bars import after_two_seconds
    from oneclip.embed.ray_cluster import Cluster

    with ExitStack() as stack:
        with after_two_seconds("reaching the cluster, and loading the model there …"):
            cluster = stack.enter_context(Cluster(address, workers=workers, device=device))
            job = cluster.prepare(load, how, batch_size, verify=verify)
        say(f"the cluster encodes with up to {cluster.pool}", kind="note")
        store, report = stack.enter_context(_going_on(opened(job.facts)))
        outcome = job.embed(sources, store, report=report)
    return store, outcome, job.embed_dim


def _load(
    name: str, precision: str, max_pixels: int | None, truncated: Truncated, device: str | None
) -> Encoder:
    """What a worker calls."""
    import oneclip

    return oneclip.load(name, device=device, precision=precision, max_pixels=max_pixels, truncated=truncated)


@contextmanager
def _going_on(store: Store) -> Iterator[tuple[Store, Callable[[Report], None]]]:
    """A store that is entered, with a report of progress; however it ends, say what is kept."""
    from oneclip.cli.progress_bars import reports

    with store:
        for place in store.damaged:
            say(f"{place} could not be read; what was in it is encoded again", kind="note")
        if store.safe:
            say(f"resuming: {store.safe} embeddings are already done", kind="note")
        try:
            with reports(store.facts.kind) as report:
                yield store, report
        except BaseException:
            if store.safe:
                say(
                    f"{store.safe} {store.facts.kind} are kept: run the same command to resume",
                    kind="note",
                )
            raise


def _answer(outcome: Outcome, store: Store, width: int) -> dict[str, object]:
    """The end of a run, for programs."""
    return {
        "output": str(store.output),
        "rows": outcome.rows,
        "dim": width,
        **store.facts.to_dict(),
        "encoded": outcome.encoded,
        "from_earlier": outcome.kept,
        "known_by_content": outcome.repeated,
        "failed": outcome.failed,
        "errors": outcome.errors,
        "skipped": [{"path": one.name, "reason": one.reason} for one in outcome.first_failures],
        "dropped": outcome.dropped,
        "not_listed": outcome.unlisted,
        "not_read": dict(outcome.not_read),
    }


def _tell(outcome: Outcome, store: Store, width: int, how: Decode, skip: bool) -> None:
    """The end of a run, for a person; exits with a code that says how it went."""
    tell_skipped(outcome.first_failures)
    tell_not_read(outcome.not_read)
    if outcome.deaths:
        times = "once" if outcome.deaths == 1 else f"{outcome.deaths} times"
        say(f"{times} a worker died at its work; what it had in hand was done again", kind="note")
    kind = store.facts.kind
    for why, count in outcome.dropped.items():
        say(f"{count} row{'s' * (count > 1)} of earlier runs dropped: {why}", kind="note")
    if outcome.unlisted:
        plural = "s" * (outcome.unlisted > 1)
        say(f"{outcome.unlisted} row{plural} kept of what could not be listed now", kind="note")
    if not outcome.rows:
        reasons = f"; {outcome.errors} has the reasons" if outcome.errors else ""
        raise DataError(f"none of the {kind} could be read{reasons}")
    made = f"{outcome.encoded} encoded" + "".join(
        f", {count} {what}"
        for count, what in ((outcome.kept, "from earlier"), (outcome.repeated, "known by content"))
        if count
    )
    decoded = f", decode {how}" if kind == "pictures" else ""
    say(
        f"{outcome.rows} {kind}, {width} numbers each, by {store.facts.model} "
        f"({store.facts.precision}{decoded}): {store.output} ({made})"
    )
    if outcome.failed:
        say(f"{outcome.failed} could not be read: {outcome.errors} has the reasons")
        raise typer.Exit(ExitCode.SKIPPED if skip else ExitCode.ERROR)
