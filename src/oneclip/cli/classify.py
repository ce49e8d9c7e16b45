"""`oneclip classify`: find the label that fits each image best, or the class of a linear probe."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.images import find_images, report_and_exit
from oneclip.embed.items import Failure
from oneclip.errors import TextError

if TYPE_CHECKING:
    from oneclip.encoder import Encoded, Encoder
    from oneclip.encoding.encoded import Features
    from oneclip.evaluate import LinearProbe

DEFAULT_TOP = 5  # labels in the table
USAGE_EXAMPLE = 'as in: oneclip classify cat.png --label "a cat" --label "a dog"'


def classify(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Files, or folders of images.")],
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="TEXT", help="What an image may show; give two or more."),
    ] = None,
    template: options.TemplateOption = None,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe", metavar="FILE", help="Classifier of `oneclip probe`, instead of labels and a model."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=1, metavar="N", help=f"Labels to show. [default: {DEFAULT_TOP}; with --json, all]"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            help="Name from `oneclip models`, a file or a folder. [default: pocket; with --probe, its own]",
        ),
    ] = None,
    device: options.DeviceOption = None,
    precision: Annotated[
        options.PrecisionChoice | None,
        typer.Option(
            "--precision",
            help="Precision of the computation; auto: bf16 if the processor supports it. [default: fp32; with "
            "--probe, its own]",
        ),
    ] = None,
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
      oneclip classify drawings/ --probe my.probe
    """
    labels = label or []
    if probe is not None and (labels or template is not None):
        raise typer.BadParameter("--probe has labels of its own; leave out --label and --template")
    if probe is None and not labels:
        raise typer.BadParameter(f"no labels given; give at least two, {USAGE_EXAMPLE}, or a --probe")
    check_labels(labels, template)
    paths, skipped, not_read = find_images(images, skip=skip)
    rank: Callable[[Features], list[list[dict[str, Any]]]]
    if probe is not None:
        classifier = load_probe(probe, model, device, precision, max_pixels, truncated)
        encoder, rank = classifier.encoder, partial(_rank_classes, classifier, top)
    else:
        precision = precision or options.PrecisionChoice.fp32
        encoder = options.load_encoder(model or "pocket", device, precision, max_pixels, truncated)
        rank = partial(_rank_labels, encoder, labels, _encode_labels(encoder, labels, template), top)
    found, interrupted = encode_images(encoder, paths, batch_size)
    skipped += [Failure(one.name, str(one.error)) for one in found.skipped]
    rankings = zip(found.kept, rank(found.features), strict=True)
    results = [{"path": paths[i], "labels": ranking} for i, ranking in rankings]
    if as_json:
        skips = [{"path": one.name, "reason": one.reason} for one in skipped]
        what = {"template": template} if probe is None else {"probe": probe}
        answer: dict[str, Any] = {"model": encoder.name, **what, "images": results, "skipped": skips}
        if interrupted:
            answer["interrupted"] = True
        print(json.dumps(answer, indent=2))
    elif results:
        _print_table(results, top or DEFAULT_TOP)
    report_and_exit(
        len(results), len(paths), "are classified", skipped, not_read, interrupted=interrupted, skip=skip
    )


def load_probe(
    path: str,
    model: str | None,
    device: str | None,
    precision: options.PrecisionChoice | None,
    max_pixels: int | None,
    truncated: options.TruncatedChoice,
) -> LinearProbe:
    """Load a probe with its model; `model` and `precision` only if they are given."""
    from oneclip.evaluate import LinearProbe
    from oneclip.evaluate.probe_file import read_probe

    made_with = read_probe(path).embeddings
    precision = precision or options.PrecisionChoice(made_with.precision)
    encoder = options.load_encoder(model or made_with.model, device, precision, max_pixels, truncated)
    return LinearProbe.load(path, encoder)


def _encode_labels(encoder: Encoder, labels: list[str], template: str | None) -> Features:
    """Encode the labels; what is wrong with them is an invalid command line."""
    if len(labels) == 1 and encoder.logit_bias is None:
        raise typer.BadParameter(f"only one label given; give at least two, {USAGE_EXAMPLE}")
    try:
        return encoder.encode_labels(labels, template)
    except TextError as error:
        raise typer.BadParameter(str(error)) from error


def _rank_labels(
    encoder: Encoder, labels: list[str], text_features: Features, top: int | None, features: Features
) -> list[list[dict[str, Any]]]:
    from oneclip.text.labels import label_scores

    shares = encoder.probabilities(features, text_features)
    return label_scores(labels, shares, features @ text_features.T, top)


def _rank_classes(probe: LinearProbe, top: int | None, features: Features) -> list[list[dict[str, Any]]]:
    from oneclip.text.labels import rank_labels

    return [
        [
            {"label": label, "probability": round(share, 6)}
            for label, share in rank_labels(probe.classes, row, top)
        ]
        for row in probe.probabilities(features)
    ]


def check_labels(labels: list[str], template: str | None, example: str = USAGE_EXAMPLE) -> None:
    """Check what can be checked of labels before a model is loaded; `example` is of the command."""
    from oneclip.text.prompts import has_placeholder

    if template is not None and not has_placeholder(template):
        raise typer.BadParameter(
            f"--template {template!r} has no {{}} where the label goes: 'a photo of a {{}}'"
        )
    for text in labels:
        if not text.strip():
            raise typer.BadParameter(f"a --label is empty; give words that describe an image, {example}")
        if labels.count(text) > 1:
            raise typer.BadParameter(f"--label {text!r} is given twice; leave one out")


def encode_images(encoder: Encoder, paths: list[str], batch_size: int) -> tuple[Encoded, bool]:
    """Encode files with a progress bar. Files that cannot be read are skipped; Ctrl-C keeps the results so far.

    Returns:
        The results, and True if Ctrl-C stopped the loop.
    """
    from oneclip.cli.progress_bars import progress_bar
    from oneclip.encoding import Encoded

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
                [
                    result["path"] if place == 0 else "",
                    str(found["label"]),
                    draw_bar(share),
                    format_percent(share),
                ]
            )
    columns = [
        Column("image", "cyan"),
        Column("label"),
        Column("", "green", optional=True),
        Column("probability", right=True),
    ]
    print_table(columns, rows)
