"""`oneclip embed`: pictures to a file of vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oneclip.cli import options
from oneclip.cli.exits import ExitCode, say
from oneclip.cli.pictures import Unusable, find_pictures, tell_skipped
from oneclip.cli.vectors import FORMATS, check_output, write_vectors
from oneclip.errors import ImageError

if TYPE_CHECKING:
    from oneclip.cli.partial import Partial
    from oneclip.encoder import Encoder, Features


def embed(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files, or folders: they are walked.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="What to write: ends in .npz or .parquet.")
    ],
    model: options.Model = "pocket",
    device: options.Device = None,
    precision: options.PrecisionOption = options.Precision.fp32,
    batch_size: options.BatchSize = 32,
    max_pixels: options.MaxPixels = None,
    skip: options.Skip = False,
) -> None:
    """Write the vectors of pictures to a file.

    Names and vectors lie side by side. In folders, files with the suffix of a picture count, hidden ones do
    not. After Ctrl-C, a crash or an error the same command goes on where it stopped; what stood in FILE
    stays until all is done.

    \b
    Examples:
      oneclip embed holiday/ -o vectors.npz
      oneclip embed shop/ logo.png -o vectors.parquet --model ViT-B/32 --skip
    """
    if output.suffix.lower() not in FORMATS:
        raise typer.BadParameter(
            f"--output {output} must end in {' or '.join(FORMATS)}, which say how it is written"
        )
    check_output(output)
    pictures, skipped = find_pictures(paths, skip=skip)
    encoder = options.load_encoder(model, device, precision, max_pixels)
    from oneclip.cli.partial import Partial

    partial = Partial(output, encoder)
    names, vectors = _encode(encoder, pictures, partial, batch_size, skip, skipped)
    write_vectors(output, names, vectors, encoder.name, encoder.precision)
    partial.remove()
    tell_skipped(skipped)
    say(f"{len(names)} pictures, {encoder.embed_dim} numbers each, by {encoder.name}: {output}")
    if skipped:
        raise typer.Exit(ExitCode.SKIPPED)


def _encode(
    encoder: Encoder,
    pictures: list[str],
    partial: Partial,
    batch_size: int,
    skip: bool,
    skipped: list[Unusable],
) -> tuple[list[str], Features]:
    """Names and vectors of the pictures that can be read, from earlier runs and from this one.

    Raises:
        ImageError: unless `skip`, for one that cannot be read; the others so far are kept for the next run.
    """
    import numpy as np

    from oneclip.cli.progress import bar

    found = {path: vector for path in pictures if (vector := partial.find(path)) is not None}
    missing = [path for path in pictures if path not in found]
    if found:
        say(f"going on: {len(found)} of {len(pictures)} pictures are in {partial.folder}", kind="note")
    done = len(found)
    try:
        with bar("pictures", len(missing)) as advance:
            for features, kept, unread in encoder.stream_images(
                missing, batch_size=batch_size, on_error="skip"
            ):
                batch = [missing[i] for i in kept]
                partial.add(batch, features)
                found.update(zip(batch, features, strict=True))
                done += len(batch)
                if unread and not skip:
                    raise ImageError(f"{unread[0].error}; --skip leaves such pictures out")
                skipped += [Unusable(one.name, str(one.error)) for one in unread]
                advance(len(kept) + len(unread))
    except BaseException:
        if done:
            partial.save()
            say(
                f"{done} of {len(pictures)} pictures are kept: the same command goes on from there",
                kind="note",
            )
        raise
    names = [path for path in pictures if path in found]
    if not names:
        tell_skipped(skipped)
        raise ImageError("no picture is left")
    return names, np.stack([found[name] for name in names])
