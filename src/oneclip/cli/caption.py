"""`oneclip caption`: write a caption for each image."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.images import find_images, report_and_exit
from oneclip.embed.items import Failure

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

# the published model that is fine-tuned for captions
DEFAULT_CAPTIONER = "coca_ViT-L-14:mscoco_finetuned_laion2b_s13b_b90k"


def caption(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, or folders of images.")],
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="Start of every caption.", show_default=False)
    ] = "",
    tokens: Annotated[
        int,
        typer.Option(
            "--max-tokens",
            min=6,
            metavar="N",
            help="Maximum length in tokens, with the start and end tokens.",
        ),
    ] = 30,
    beams: Annotated[
        int, typer.Option("--beams", min=1, metavar="N", help="Beams of the search; 1 is fastest.")
    ] = 6,
    model: options.ModelOption = DEFAULT_CAPTIONER,
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    batch_size: options.BatchSizeOption = 32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
    skip: options.SkipOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Write a caption for each image, with a CoCa model.

    The default model is a download of 2.6 GB. Models other than CoCa cannot write captions.

    \b
    Examples:
      oneclip caption cat.jpg
      oneclip caption holiday/ --prompt "a photo of" --json
    """
    paths, skipped, not_read = find_images(images, skip=skip)
    encoder = options.load_encoder(model, device, precision, max_pixels, truncated)
    search: dict[str, Any] = {"generation_type": "top_k"}  # with top_k=1 by default, which is greedy
    if beams > 1:
        search = {"num_beams": beams, "num_beam_groups": 3 if beams % 3 == 0 else 1}
    search["seq_len"] = tokens
    results, unread, interrupted = _captions(encoder, paths, batch_size, prompt, search)
    skipped += unread
    if as_json:
        skips = [{"path": one.name, "reason": one.reason} for one in skipped]
        answer: dict[str, Any] = {"model": encoder.name, "images": results, "skipped": skips}
        if interrupted:
            answer["interrupted"] = True
        print(json.dumps(answer, indent=2))
    elif results:
        _print_table(results)
    report_and_exit(
        len(results), len(paths), "have a caption", skipped, not_read, interrupted=interrupted, skip=skip
    )


def _captions(
    encoder: Encoder, paths: list[str], batch_size: int, prompt: str, search: dict[str, Any]
) -> tuple[list[dict[str, str]], list[Failure], bool]:
    """Return captions, images that could not be read, and True if Ctrl-C stopped the loop."""
    from oneclip.cli.progress_bars import progress_bar

    results: list[dict[str, str]] = []
    unread: list[Failure] = []
    batches = encoder.stream_captions(paths, prompt=prompt, batch_size=batch_size, on_error="skip", **search)
    try:
        with progress_bar("images", len(paths)) as advance, closing(batches):
            for batch in batches:
                results += [
                    {"path": paths[i], "caption": text}
                    for i, text in zip(batch.kept, batch.captions, strict=True)
                ]
                unread += [Failure(one.name, str(one.error)) for one in batch.skipped]
                advance(len(batch.kept) + len(batch.skipped))
    except KeyboardInterrupt:
        return results, unread, True
    return results, unread, False


def _print_table(results: list[dict[str, str]]) -> None:
    from oneclip.cli.table_output import Column, print_table

    print_table(
        [Column("image", "cyan"), Column("caption")], [[each["path"], each["caption"]] for each in results]
    )
