"""`oneclip embed`: write embeddings of images or texts to disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.images import echo_not_read, echo_skipped
from oneclip.errors import ConfigError, DataError, ImageError

if TYPE_CHECKING:
    from oneclip.embed.items import ItemSource
    from oneclip.embed.ray_cluster import RayEmbedJob
    from oneclip.embed.rows import Decode
    from oneclip.embed.run import EmbedOutcome
    from oneclip.embed.store import EmbeddingStore
    from oneclip.embed.throughput import EmbedProgress
    from oneclip.encoder import Encoder
    from oneclip.image import Truncated


class DecodeMode(str, Enum):
    """Choices of --decode."""

    exact = "exact"
    fast = "fast"


class StoredDtype(str, Enum):
    """Choices of --output-precision."""

    fp32 = "fp32"
    fp16 = "fp16"


class PartFormat(str, Enum):
    """Choices of --parts."""

    parquet = "parquet"
    npz = "npz"


class EngineChoice(str, Enum):
    """Choices of --engine."""

    local = "local"
    ray = "ray"


def embed(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Images, folders, patterns, lists (@list.txt, @- is stdin), tables (.csv, .parquet), shards.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="File (.npz, .parquet), folder for parts (also s3://…), or dataset (.lance).",
        ),
    ],
    model: options.ModelOption = "pocket",
    texts: Annotated[
        bool,
        typer.Option(
            "--texts",
            help="Embed texts instead of images: lines of a .txt file, a table column, or the .txt members of shards.",
        ),
    ] = False,
    column: Annotated[
        str | None,
        typer.Option("--column", metavar="NAME", help="Table column with paths, URLs, bytes, or texts."),
    ] = None,
    id_column: Annotated[
        str | None,
        typer.Option(
            "--id-column",
            metavar="NAME",
            help="Table column with the names of rows, instead of the path.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Exclude files and folders with this name, or with this path if it has a slash; repeatable.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder that paths in lists and tables are relative to. [default: that of the list or table]",
        ),
    ] = None,
    decode: Annotated[
        DecodeMode,
        typer.Option("--decode", help="fast: shrink large JPEGs while decoding; nearly the same embeddings."),
    ] = DecodeMode.exact,
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate", help="Truncate texts that are too long; otherwise they count as unreadable."
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FOLDER", help="Cache embeddings by content, also for other outputs."
        ),
    ] = None,
    parts: Annotated[
        PartFormat, typer.Option("--parts", help="Format of the parts, if OUT is a folder.")
    ] = PartFormat.parquet,
    output_precision: Annotated[
        StoredDtype,
        typer.Option("--output-precision", help="Type of the stored embeddings; fp16 is half as large."),
    ] = StoredDtype.fp32,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Read files again even if size and modification time are unchanged, and compare the content.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Start over and replace OUT; otherwise the run resumes."),
    ] = False,
    engine: Annotated[
        EngineChoice,
        typer.Option("--engine", help="Use this process, or workers of a Ray cluster (oneclip[ray])."),
    ] = EngineChoice.local,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Number of Ray workers. [default: as many as fit]"
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="ADDRESS",
            help="Address of a Ray cluster (auto, HOST:6379). [default: RAY_ADDRESS, or start one here]",
        ),
    ] = None,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    batch_size: options.BatchSizeOption = 32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
    skip: options.SkipOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write the embeddings of images or texts to disk.

    Progress is saved every 20 seconds: after Ctrl-C, a crash or an error, the same command resumes. Run again later,
    it encodes only new and changed items. Items that cannot be read are listed in OUT.errors.csv with the reason; the
    others are written.

    \b
    Examples:
      oneclip embed drawings/ -o vectors.npz
      oneclip embed holiday/ -o vectors.npz --model ViT-B-32-256:datacomp_s34b_b86k
      oneclip embed "shards/{000..010}.tar" -o vectors/ --model ViT-B/32 --decode fast --skip
      oneclip embed icons.csv --column image_url --id-column sku -o vectors.parquet
      find . -name "*.png" | oneclip embed @- -o vectors.npz --exclude "*_thumb*" --json
      oneclip embed texts.txt --texts -o texts.npz
      oneclip embed s3://bucket/icons -o s3://bucket/vectors --engine ray
    """
    options.check_model(model)
    from oneclip.embed.outputs import check_output

    suffix = f".{parts.value}"
    try:
        check_output(output, suffix, overwrite=overwrite)
    except ConfigError as error:
        raise typer.BadParameter(f"--out {error}") from error
    _check_engine(engine, workers, ray_address, cache)
    from oneclip.embed.sources import find_sources

    found = find_sources(
        sources,
        texts=texts,
        column=column,
        folder=None if images is None else str(images),
        id_column=id_column,
        exclude=exclude or (),
    )
    _check_sources(found, skip, id_column)
    from oneclip.embed.cache import EmbeddingCache
    from oneclip.embed.rows import EmbeddingMetadata
    from oneclip.embed.run import embed as embed_local
    from oneclip.embed.store import EmbeddingStore

    mode: Decode = ("truncate" if truncate else "text") if texts else decode.value
    with ExitStack() as stack:
        if engine is EngineChoice.ray:
            options.note_pocket_scope(model)
            load = partial(_load_in_worker, model, precision.value, max_pixels, truncated.value)
            job = _start_ray_job(stack, load, device, workers, ray_address, mode, batch_size, verify)
            metadata, dim = job.metadata, job.embed_dim
        else:
            encoder = options.load_encoder(model, device, precision, max_pixels, truncated)
            metadata, dim = EmbeddingMetadata.for_encoder(encoder, mode), encoder.embed_dim
        stored = replace(metadata, stored=output_precision.value)
        store = EmbeddingStore(output, stored, overwrite=overwrite, folder_suffix=suffix)
        report = stack.enter_context(_open_store(store))
        if engine is EngineChoice.ray:
            outcome = job.embed(found, store, report=report)
        else:
            base = None if cache is None else stack.enter_context(EmbeddingCache(cache, metadata, dim))
            outcome = embed_local(
                encoder,
                found,
                store,
                decode=mode,
                batch_size=batch_size,
                cache=base,
                verify=verify,
                report=report,
            )
    if as_json:
        print(json.dumps(_json_summary(outcome, store, dim), indent=2))
    _report_and_exit(outcome, store, dim, skip)


def _check_engine(
    engine: EngineChoice, workers: int | None, ray_address: str | None, cache: Path | None
) -> None:
    """Check that no option of the other engine is given."""
    if engine is EngineChoice.ray and cache is not None:
        raise typer.BadParameter("--cache is a local folder; it works only with --engine local")
    for option, value in (("--workers", workers), ("--ray-address", ray_address)):
        if engine is EngineChoice.local and value is not None:
            raise typer.BadParameter(f"{option} works only with --engine ray")


def _check_sources(sources: list[ItemSource], skip: bool, id_column: str | None) -> None:
    """Check before the run that paths exist, unless they may be skipped, and that --id-column has a table."""
    from oneclip.embed.sources.files import ImageFiles
    from oneclip.embed.sources.lines import PathLines
    from oneclip.embed.sources.tables import TableSource

    for source in sources:
        if isinstance(source, PathLines) and source.lacks_most():
            echo_stderr(
                f"{source.name} is read as a list of paths, one per line; most of the first ones do not exist",
                kind="note",
            )
    files = [source for source in sources if isinstance(source, ImageFiles)]
    failures = [failure for source in files for failure in source.failures]
    if failures and not skip:
        raise ImageError(f"{failures[0]}; --skip skips such paths")
    if not any(not isinstance(source, ImageFiles) or source.paths for source in sources):
        echo_skipped(failures)
        raise ImageError("no images found")
    if id_column is not None and not any(isinstance(source, TableSource) for source in sources):
        raise typer.BadParameter("--id-column needs a table, but no SOURCE is a table")


def _start_ray_job(
    stack: ExitStack,
    load: Callable[..., Encoder],
    device: str | None,
    workers: int | None,
    address: str | None,
    decode: Decode,
    batch_size: int,
    verify: bool,
) -> RayEmbedJob:
    """Connect to a Ray cluster, which `stack` closes, and load the model there."""
    from oneclip.cli.progress_bars import message_if_slow
    from oneclip.embed.ray_cluster import RayCluster

    with message_if_slow("connecting to the cluster and loading the model there …"):
        cluster = stack.enter_context(RayCluster(address, workers=workers, device=device))
        job = cluster.prepare(load, decode, batch_size, verify=verify)
    echo_stderr(f"the cluster encodes with up to {cluster.pool}", kind="note")
    return job


def _load_in_worker(
    name: str, precision: str, max_pixels: int | None, truncated: Truncated, device: str | None
) -> Encoder:
    """Load the encoder in a Ray worker. A module-level function, because it is pickled."""
    import oneclip

    return oneclip.load(name, device=device, precision=precision, max_pixels=max_pixels, truncated=truncated)


@contextmanager
def _open_store(store: EmbeddingStore) -> Iterator[Callable[[EmbedProgress], None]]:
    """Open a store, show progress, and report what is already done, or saved after an error.

    Yields:
        A function to call with each progress report.
    """
    from oneclip.cli.progress_bars import throughput_bar

    with store:
        for part in store.damaged:
            echo_stderr(f"{part} could not be read; its items are encoded again", kind="note")
        if store.safe:
            echo_stderr(f"resuming: {store.safe} embeddings already done", kind="note")
        try:
            with throughput_bar(store.metadata.kind) as report:
                yield report
        except BaseException:
            if store.safe:
                echo_stderr(
                    f"{store.safe} embeddings are saved; run the same command to resume",
                    kind="note",
                )
            raise


def _json_summary(outcome: EmbedOutcome, store: EmbeddingStore, dim: int) -> dict[str, object]:
    return {
        "output": str(store.output),
        "rows": outcome.rows,
        "dim": dim,
        **store.metadata.to_dict(),
        "encoded": outcome.encoded,
        "already_done": outcome.kept,
        "found_by_content": outcome.repeated,
        "failed": outcome.failed,
        "errors": outcome.errors,
        "skipped": [{"path": one.name, "reason": one.reason} for one in outcome.first_failures],
        "dropped": outcome.dropped,
        "not_listed": outcome.unlisted,
        "not_read": dict(outcome.not_read),
    }


def _report_and_exit(outcome: EmbedOutcome, store: EmbeddingStore, dim: int, skip: bool) -> None:
    """Print the summary of a run on stderr, and exit with the matching code if something failed."""
    echo_skipped(outcome.first_failures, skip=skip)
    echo_not_read(outcome.not_read)
    if outcome.deaths:
        workers = "worker" if outcome.deaths == 1 else "workers"
        echo_stderr(f"{outcome.deaths} {workers} died; their unfinished work was done again", kind="note")
    metadata = store.metadata
    for why, count in outcome.dropped.items():
        echo_stderr(f"{count} row{'s' * (count > 1)} of earlier runs dropped: {why}", kind="note")
    if outcome.unlisted:
        plural = "s" * (outcome.unlisted > 1)
        echo_stderr(
            f"{outcome.unlisted} row{plural} of earlier runs kept: their source could not be listed",
            kind="note",
        )
    if not outcome.rows:
        reasons = f"; {outcome.errors} has the reasons" if outcome.errors else ""
        raise DataError(f"none of the {metadata.kind} could be read{reasons}")
    counts = f"{outcome.encoded} encoded" + "".join(
        f", {count} {what}"
        for count, what in ((outcome.kept, "already done"), (outcome.repeated, "found by content"))
        if count
    )
    decode = f", decode {metadata.decode}" if metadata.decode in DecodeMode.__members__ else ""
    echo_stderr(
        f"{outcome.rows} {metadata.kind}, {dim} values each, by {metadata.model} "
        f"({metadata.precision}{decode}): {store.output} ({counts})"
    )
    if outcome.failed:
        echo_stderr(f"{outcome.failed} could not be read: {outcome.errors} has the reasons")
        raise typer.Exit(ExitCode.SKIPPED if skip else ExitCode.ERROR)
