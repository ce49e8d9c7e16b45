"""Export a model: write its towers, compare them with the model in torch, and publish the folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from oneclip.encoder import Encoder
from oneclip.encoder import load as load_encoder
from oneclip.errors import ConfigError, OutputError
from oneclip.export.folder import (
    describe_tower,
    write_description,
    write_preprocessor_config,
    write_tokenizer,
)
from oneclip.export.onnx_export import write_onnx
from oneclip.export.parity_report import Reference, compare, write_parity
from oneclip.export.request import (
    DEFAULT_OPSET,
    PRECISIONS,
    TARGETS,
    WITHOUT_ONNX,
    ExportRequest,
    Towers,
    writer,
)
from oneclip.export.towers import exported_tower, has_dynamic_length
from oneclip.hub.atomic import names_in, replace_folder
from oneclip.runtime import is_exported
from oneclip.runtime.exported_model import Side

SIDES: tuple[Side, ...] = ("image", "text")
FILES = {"image": "vision_model", "text": "text_model"}
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
"""Names of the ONNX files, as in transformers.js."""


@dataclass
class ExportReport:
    """What was exported, and how far it is from the model in torch.

    Attributes:
        folder: that was written.
        files: names of its files.
        parity: see `oneclip.export.parity_report`.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    parity: dict[str, Any] = field(default_factory=dict)


def export(
    model: Encoder | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = "onnx",
    precisions: Sequence[str] = ("fp32",),
    opset: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    uint8_input: bool = False,
    max_drop: float = 0.001,
    force: bool = False,
    check: str | os.PathLike[str] | None = None,
) -> ExportReport:
    """Export a model to a folder that runs without torch. The model is not changed.

    Args:
        model: an encoder in fp32 on the CPU, or a name for `oneclip.load`.
        out: folder to write.
        to: one of `TARGETS`.
        precisions: of `PRECISIONS`.
        opset: version of ONNX's operators; None for `DEFAULT_OPSET`.
        image_size: pixels, or (height, width), of a model that is loaded by name; see `oneclip.load`.
        uint8_input: the image tower takes bytes and normalizes them itself.
        max_drop: greatest difference from the model in torch, see `oneclip.export.parity_report`.
        force: replace an existing folder, and write a model that differs more.
        check: data of `oneclip.evaluate.open_dataset` to compare on, besides generated inputs.

    Raises:
        ConfigError: for an unknown target or precision, a model that is not in fp32, an operator that cannot be
            exported, or a model that differs more than `max_drop`.
        OutputError: if the folder may not be replaced or cannot be written.
        DataError: if `check` cannot be read.
        MissingExtraError: without the packages that the target needs.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    request = ExportRequest(to, tuple(dict.fromkeys(precisions)), opset, uint8_input, max_drop, check)
    if names_in(Path(out)) and not force:
        raise OutputError(f"{out} exists and is not empty; it is replaced only with --force")
    encoder = _encoder(model, image_size)
    with replace_folder(out, force=force) as folder, _unchanged(encoder.model), torch.no_grad():
        reference = (
            None if to in WITHOUT_ONNX else Reference(encoder, check)
        )  # first: bad data is an error at once
        towers = _write_towers(encoder, folder, request)
        write_tokenizer(encoder, folder)  # a target may replace its files
        if TARGETS[to]:
            towers = writer(TARGETS[to])(folder, towers, encoder=encoder, request=request)
        if to == "onnx":
            write_preprocessor_config(encoder, folder)
        parity: dict[str, Any] = {}
        if towers and reference is not None:
            write_description(encoder, folder, towers, request, None)
            parity = compare(reference, folder, request.precisions)
            write_parity(parity, folder)
            _check_drop(parity, out, max_drop, force)
            write_description(encoder, folder, towers, request, _summary(parity))
    return ExportReport(Path(out), sorted(_files(Path(out))), parity)


def _encoder(model: Encoder | str | os.PathLike[str], image_size: int | tuple[int, int] | None) -> Encoder:
    """Load the model if it is a name.

    Raises:
        ConfigError: for a model that cannot be compared in fp32.
    """
    if not isinstance(model, (str, os.PathLike)):
        encoder = model
        if image_size is not None:
            raise ConfigError(
                "image_size is of a model that is loaded by name: oneclip.load(name, image_size=…)"
            )
    elif is_exported(model):
        raise ConfigError(f"{model} is an exported model already; export the model that it was made from")
    else:
        encoder = load_encoder(model, device="cpu", image_size=image_size)
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"{encoder!r} is not a model in torch; export the model that it was made from, by its name"
        )
    if encoder.precision != "fp32" or encoder.device.type != "cpu":
        raise ConfigError(
            f"the model is in {encoder.precision} on {encoder.device}; load it in fp32 on the CPU to export it"
        )
    return encoder


def _write_towers(encoder: Encoder, folder: Path, request: ExportRequest) -> Towers:
    """Write the ONNX files of both towers in every precision, and return their description."""
    towers: Towers = {side: {} for side in SIDES}
    if request.to in WITHOUT_ONNX:
        return {}
    for side in SIDES:
        tower = exported_tower(encoder, side, uint8_input=request.uint8_input)
        fp32 = folder / f"{FILES[side]}.onnx"
        write_onnx(
            tower.module.eval(),
            tower.example,
            fp32,
            input_name=tower.input_name,
            output_name=tower.output_name,
            opset=request.opset,
            longest=encoder.context_length if side == "text" and has_dynamic_length(encoder) else None,
        )
        for precision in request.precisions:
            path = folder / f"{FILES[side]}{SUFFIXES[precision]}.onnx"
            if precision != "fp32":
                writer(PRECISIONS[precision])(fp32, path, side=side, encoder=encoder, request=request)
            files = [name for name in (path.name, f"{path.name}_data") if (folder / name).is_file()]
            towers[side][precision] = describe_tower(
                folder, "onnx", path.name, tower.input_name, tower.output_name, files
            )
        if "fp32" not in request.precisions:
            for name in (fp32.name, f"{fp32.name}_data"):
                (folder / name).unlink(missing_ok=True)
    return towers


def _check_drop(parity: dict[str, Any], out: str | os.PathLike[str], max_drop: float, force: bool) -> None:
    if not parity["drop"] <= max_drop and not force:  # also if it is not a number
        raise ConfigError(
            f"{out} was not written: the exported model differs by {parity['drop']:.2g} from the model in torch, more "
            f"than {max_drop:g} ({parity['reason']}). Use another precision, a higher --max-drop, or --force"
        )


def _summary(parity: dict[str, Any]) -> dict[str, Any]:
    return {"drop": parity["drop"], "reason": parity["reason"]}


def _files(folder: Path) -> Iterator[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def _unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode; restore the mode of each module and what needs gradients."""
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, wanted in needs:
            parameter.requires_grad_(wanted)
