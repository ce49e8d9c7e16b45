"""`oneclip export`: write a model for ONNX Runtime and others, and compare it with the model in torch."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr
from oneclip.cli.progress_bars import message_if_slow


class ExportTarget(str, Enum):
    """Choices of --to."""

    onnx = "onnx"
    openvino = "openvino"
    immich = "immich"
    transformersjs = "transformersjs"
    coreml = "coreml"


def export(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL OUT", help="Model to export, and the folder to write."),
    ] = None,
    model: options.ModelAliasOption = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="OUT", help="Same as OUT.", show_default=False)
    ] = None,
    target: Annotated[
        ExportTarget, typer.Option("--to", help="Runtime or application that the folder is for.")
    ] = ExportTarget.onnx,
    precision: Annotated[
        str,
        typer.Option("--precision", metavar="fp32,fp16,int8", help="Precisions, separated by commas."),
    ] = "fp32",
    opset: Annotated[
        int | None,
        typer.Option("--opset", metavar="N", help="Version of ONNX's operators. [default: 20]"),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            metavar="N",
            help="Pixels per side of the images; positions are interpolated. [default: that of the model]",
        ),
    ] = None,
    uint8_input: Annotated[
        bool,
        typer.Option("--uint8-input", help="The image tower takes bytes and normalizes them itself."),
    ] = False,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            min=0,
            metavar="D",
            help="Greatest difference from the model in torch; see parity.md.",
        ),
    ] = 0.001,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="DATA",
            help="Images to calibrate and compare on: a folder of classes, or a table of images and captions.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace OUT, and write a model that differs more than --max-drop."),
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Export a model to a folder that runs without torch.

    Both towers are compared with the model in torch, on images of every shape and mode and on short and long texts;
    the report is in OUT/parity.md. A model that differs more than --max-drop is not written.

    \b
    Examples:
      oneclip export pocket pocket-onnx
      oneclip export ViT-B/32 clip-b32 --precision fp32,int8
      oneclip classify cat.png -l "a cat" -l "a dog" --model pocket-onnx
    """
    source, target_folder = _source_and_target(list(paths or ()), model, out)
    precisions = [one.strip() for one in precision.split(",") if one.strip()]
    options.check_model(source)
    from oneclip.export import check_request, export

    check_request(target.value, precisions)
    with message_if_slow(f"exporting {source} (minutes for a large model) …"):
        report = export(
            source,
            target_folder,
            to=target.value,
            precisions=precisions,
            opset=opset,
            image_size=image_size,
            uint8_input=uint8_input,
            max_drop=max_drop,
            force=force,
            check=check,
        )
    if as_json:
        answer: dict[str, Any] = {"path": str(target_folder), "files": report.files, "parity": report.parity}
        print(json.dumps(answer, indent=2))
        return
    _print_parity(report.parity)
    echo_stderr(f"{target_folder}: {', '.join(report.files)}")


def _source_and_target(paths: list[str], model: str | None, out: str | None) -> tuple[str, Path]:
    """Return the model and the folder from the arguments or the options."""
    usage = "oneclip export MODEL OUT"
    source = options.require_one_model(paths.pop(0) if paths and model is None else None, model, usage)
    target = options.require_one_model(paths.pop(0) if paths and out is None else None, out, usage)
    if paths:
        raise typer.BadParameter(f"unexpected argument {paths[0]!r}: {usage}")
    return source, Path(target)


def _print_parity(parity: dict[str, Any]) -> None:
    from oneclip.cli.table_output import Column, print_table

    rows = [
        [
            f"{precision} {side}",
            f"{found[side]['worst_cosine']:.7f}",
            f"{found[side]['median_cosine']:.7f}",
            f"{found[side]['relative_error']:.1e}",
        ]
        for precision, found in parity.get("precisions", {}).items()
        for side in ("images", "texts")
    ]
    columns = [
        Column("against torch", "cyan"),
        Column("worst cosine", right=True),
        Column("median cosine", right=True),
        Column("relative error", right=True),
    ]
    if rows:
        print_table(columns, rows)
