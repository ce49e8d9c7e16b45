"""`oneclip explain`: show where in an image each text is."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.classify import check_labels
from oneclip.errors import OutputError
from oneclip.hub.addresses import is_address, regular_file_size

if TYPE_CHECKING:
    from oneclip.explain import Maps

USAGE_EXAMPLE = 'as in: oneclip explain photo.jpg --label "a dog" --label "a bicycle"'


class MethodChoice(StrEnum):
    """Choices of --method."""

    auto = "auto"
    dense = "dense"
    gradient = "gradient"
    windows = "windows"


def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image file.")],
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            "-l",
            metavar="TEXT",
            help="What to look for; two or more are compared with each other.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Image file to write the maps to, such as map.png."),
    ] = None,
    method: Annotated[
        MethodChoice,
        typer.Option(
            "--method",
            help="dense: the patches of one pass; gradient: LeGrad; windows: parts of the image, encoded one by one; "
            "auto: dense, or windows for towers without patches.",
        ),
    ] = MethodChoice.auto,
    template: options.TemplateOption = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            metavar="PIXELS",
            help="Side of the model's input, for dense and gradient: larger inputs give finer maps. "
            "[default: that of the model]",
        ),
    ] = None,
    q: Annotated[
        float,
        typer.Option(
            "--q",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Boxes hold the values above this quantile of all maps.",
        ),
    ] = 0.9,
    model: options.ModelOption = "pocket",
    device: options.DeviceOption = None,
    precision: options.PrecisionOption = options.PrecisionChoice.fp32,
    max_pixels: options.MaxPixelsOption = None,
    truncated: options.TruncatedOption = options.TruncatedChoice.refuse,
    as_json: options.JsonOption = False,
) -> None:
    """Show where in an image each text is.

    Each map is contrasted with the other labels; a single label is contrasted with generic texts. A map is evidence of
    similarity, not a segmentation.

    \b
    Examples:
      oneclip explain examples/images/cat.png -l "a cat" -l "a house" -o map.png
      oneclip explain photo.jpg -l "a dog" -l "a bicycle" --model ViT-B-16:openai --json
    """
    labels = label or []
    if not labels:
        raise typer.BadParameter(f"no labels given; give at least one, {USAGE_EXAMPLE}")
    check_labels(labels, template, USAGE_EXAMPLE)
    _check_files(image, out)
    encoder = options.load_encoder(model, device, precision, max_pixels, truncated)
    maps = encoder.explain(image, labels, method=method.value, template=template, image_size=image_size)
    if out is not None:
        maps.save(out)
    found = _labels(maps, q)
    if as_json:
        size = {"width": maps.image.width, "height": maps.image.height}
        facts = {"method": maps.method, "contrast": maps.contrast, "q": q}
        print(json.dumps({"model": encoder.name, "path": image, **size, **facts, "labels": found}, indent=2))
    else:
        _print_table(found)


def _check_files(image: str, out: Path | None) -> None:
    """Check that the image exists and that the maps can be written, before a model is loaded."""
    from oneclip.explain.overlay import image_format

    if not is_address(image):
        regular_file_size(image)
    if out is not None:
        image_format(out)
        if not out.parent.is_dir():
            raise OutputError(f"{out} cannot be written: there is no folder {out.parent}")


def _labels(maps: Maps, q: float) -> list[dict[str, Any]]:
    """Return what is printed of each label, in the order given."""
    return [
        {
            "label": text,
            "similarity": round(float(maps.scores[index]), 6),
            "peak": {**peak._asdict(), "value": round(peak.value, 6)},
            "boxes": [{**box._asdict(), "value": round(box.value, 6)} for box in boxes],
        }
        for index, (text, boxes) in enumerate(zip(maps.texts, maps.boxes(q), strict=True))
        for peak in [maps.peak(index)]
    ]


def _print_table(found: list[dict[str, Any]]) -> None:
    from oneclip.cli.table_output import Column, print_table

    columns = [
        Column("label", "cyan"),
        Column("similarity", right=True),
        Column("highest", right=True),
        Column("at x, y", right=True),
        Column("box (left, top, right, bottom)"),
    ]
    rows = []
    for one in found:
        box = one["boxes"][0] if one["boxes"] else None
        place = (
            "none above the others"
            if box is None
            else ", ".join(str(box[side]) for side in ("left", "top", "right", "bottom"))
        )
        peak = one["peak"]
        rows.append(
            [
                one["label"],
                f"{one['similarity']:.3f}",
                f"{peak['value']:+.3f}",
                f"{peak['x']}, {peak['y']}",
                place,
            ]
        )
    print_table(columns, rows)
