"""`oneclip classify`: find the label that fits each image best."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.images import find_images, report_and_exit
from oneclip.embed.items import Failure
from oneclip.errors import TextError

if TYPE_CHECKING:
    from oneclip.encoder import Encoded, Encoder

DEFAULT_TOP = 5  # labels in the table
USAGE_EXAMPLE = 'as in: oneclip classify cat.png --label "a cat" --label "a dog"'


def classify(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, or folders of images.")],
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="TEXT", help="What an image may show; give two or more."),
    ] = None,
    template: options.TemplateOption = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=1, metavar="N", help=f"Labels to show. [default: {DEFAULT_TOP}; with --json, all]"
        ),
    ] = None,
    model: options.ModelOption = "pocket",
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    batch_size: options.BatchSizeOption = 32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
    skip: options.SkipOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Find the label that fits each image best.

    The probabilities of an image's labels add up to 1, even if no label fits. (A model trained with the sigmoid
    loss, such as SigLIP, gives each label an independent probability.)

    \b
    Examples:
      oneclip classify examples/images/cat.png --label "a cat" --label "a dog"
      oneclip classify drawings/ -l "a tree" -l "a house" --json
      oneclip classify holiday/ -l beach -l forest --template "a photo of a {}" --model ViT-B-32-256:datacomp_s34b_b86k
    """
    from oneclip.text.labels import label_scores

    labels = label or []
    if not labels:
        raise typer.BadParameter(f"no labels given; give at least two, {USAGE_EXAMPLE}")
    check_labels(labels, template)
    paths, skipped, not_read = find_images(images, skip=skip)
    encoder = options.load_encoder(model, device, precision, max_pixels, truncated)
    if len(labels) == 1 and encoder.model.logit_bias is None:
        raise typer.BadParameter(f"only one label given; give at least two, {USAGE_EXAMPLE}")
    try:
        text_features = encoder.encode_labels(labels, template)
    except TextError as error:
        raise typer.BadParameter(str(error)) from error
    found, interrupted = encode_images(encoder, paths, batch_size)
    skipped += [Failure(one.name, str(one.error)) for one in found.skipped]
    rankings = label_scores(
        labels,
        encoder.probabilities(found.features, text_features),
        found.features @ text_features.T,
        top,
    )
    results = [{"path": paths[i], "labels": ranking} for i, ranking in zip(found.kept, rankings, strict=True)]
    if as_json:
        skips = [{"path": one.name, "reason": one.reason} for one in skipped]
        answer: dict[str, Any] = {
            "model": encoder.name,
            "template": template,
            "images": results,
            "skipped": skips,
        }
        if interrupted:
            answer["interrupted"] = True
        print(json.dumps(answer, indent=2))
    elif results:
        _print_table(results, top or DEFAULT_TOP)
    report_and_exit(
        len(results), len(paths), "are classified", skipped, not_read, interrupted=interrupted, skip=skip
    )


def check_labels(labels: list[str], template: str | None) -> None:
    """Check what can be checked of labels before a model is loaded."""
    from oneclip.text.prompts import has_placeholder

    if template is not None and not has_placeholder(template):
        raise typer.BadParameter(
            f"--template {template!r} has no {{}} where the label goes: 'a photo of a {{}}'"
        )
    for text in labels:
        if not text.strip():
            raise typer.BadParameter(
                f"a --label is empty; give words that describe an image, {USAGE_EXAMPLE}"
            )
        if labels.count(text) > 1:
            raise typer.BadParameter(f"--label {text!r} is given twice; leave one out")


def encode_images(encoder: Encoder, paths: list[str], batch_size: int) -> tuple[Encoded, bool]:
    """Encode files with a progress bar. Files that cannot be read are skipped; Ctrl-C keeps the results so far.

    Returns:
        The results, and True if Ctrl-C stopped the loop.
    """
    from oneclip.cli.progress_bars import progress_bar
    from oneclip.encoder import Encoded

    done: list[Encoded] = []
    interrupted = False
    try:
        with (
            progress_bar("images", len(paths)) as advance,
            closing(encoder.stream_images(paths, batch_size=batch_size, on_error="skip")) as batches,
        ):
            for batch in batches:
                done.append(batch)
                advance(len(batch.kept) + len(batch.skipped))
    except KeyboardInterrupt:
        interrupted = True
    return Encoded.joined(done, encoder.embed_dim), interrupted


def _print_table(results: list[dict[str, Any]], top: int) -> None:
    from oneclip.cli.table_output import Column, draw_bar, format_percent, print_table

    rows: list[list[str]] = []
    for result in results:
        for place, found in enumerate(result["labels"][:top]):
            share = found["probability"]
            rows.append(
                [result["path"] if place == 0 else "", found["label"], draw_bar(share), format_percent(share)]
            )
    columns = [
        Column("image", "cyan"),
        Column("label"),
        Column("", "green", optional=True),
        Column("probability", right=True),
    ]
    print_table(columns, rows)
