"""Export a model: write its towers, compare them with the model in torch, and publish the folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from oneclip._version import __version__
from oneclip.encoder import Encoder
from oneclip.encoder import load as load_encoder
from oneclip.errors import ConfigError
from oneclip.export.onnx_export import DEFAULT_OPSET, write_onnx
from oneclip.export.parity_report import compare, write_parity
from oneclip.export.towers import (
    IMAGE_INPUT,
    IMAGE_OUTPUT,
    TEXT_INPUT,
    TEXT_OUTPUT,
    has_dynamic_length,
    image_tower,
    text_tower,
)
from oneclip.hub.atomic import replace_folder
from oneclip.runtime.exported_model import DESCRIPTION, FORMAT

PRECISIONS = ("fp32", "fp16", "int8")
TARGETS = ("onnx", "openvino", "immich", "transformersjs", "coreml")


@dataclass
class ExportReport:
    """What was exported, and how far it is from the model in torch.

    Attributes:
        folder: that was written; None if nothing was.
        files: names of its files.
        parity: see `oneclip.export.parity_report`.
    """

    folder: Path | None
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
        model: an encoder in fp32, or a name for `oneclip.load`.
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
        MissingExtraError: without the packages that the target needs.
    """
    check_request(to, precisions)
    if isinstance(model, Encoder):
        encoder = model
        if image_size is not None:
            raise ConfigError(
                "image_size is of a model that is loaded by name: oneclip.load(name, image_size=…)"
            )
    else:
        encoder = load_encoder(model, device="cpu", image_size=image_size)
    if encoder.precision != "fp32" or encoder.device.type != "cpu":
        raise ConfigError(
            f"the model is in {encoder.precision} on {encoder.device}; load it in fp32 on the CPU to export it"
        )
    was_training, requires_grad = (
        encoder.model.training,
        [p.requires_grad for p in encoder.model.parameters()],
    )
    try:
        with replace_folder(out, force=force) as folder, torch.no_grad():
            towers = {
                "image": _write_tower(encoder, "image", folder, opset or DEFAULT_OPSET, uint8_input),
                "text": _write_tower(encoder, "text", folder, opset or DEFAULT_OPSET, uint8_input),
            }
            _write_tokenizer(encoder, folder)
            _write_description(encoder, folder, towers, opset or DEFAULT_OPSET, uint8_input)
            parity = compare(encoder, folder, precisions, check)
            write_parity(parity, folder)
            if parity["drop"] > max_drop and not force:
                raise ConfigError(
                    f"{out} was not written: the exported model differs by {parity['drop']:.2g} from the model in "
                    f"torch, more than {max_drop:g} ({parity['reason']}). Use another precision, a higher --max-drop, "
                    "or --force"
                )
    finally:
        encoder.model.train(was_training)
        for parameter, wanted in zip(encoder.model.parameters(), requires_grad, strict=True):
            parameter.requires_grad_(wanted)
    return ExportReport(Path(out), sorted(os.listdir(out)), parity)


def check_request(to: str, precisions: Sequence[str]) -> None:
    """Raise ConfigError for an unknown target or precision."""
    if to not in TARGETS:
        raise ConfigError(f"unknown target {to!r}; available: {', '.join(TARGETS)}")
    unknown = [one for one in precisions if one not in PRECISIONS]
    if unknown or not precisions:
        raise ConfigError(
            f"unknown precision {', '.join(map(repr, unknown)) or 'nothing'}; available: {', '.join(PRECISIONS)}"
        )


def _write_tower(
    encoder: Encoder, side: str, folder: Path, opset: int, uint8_input: bool
) -> dict[str, dict[str, Any]]:
    """Write a tower in fp32 and return its part of the description."""
    is_image = side == "image"
    tower, example = image_tower(encoder, uint8_input=uint8_input) if is_image else text_tower(encoder)
    names = (IMAGE_INPUT, IMAGE_OUTPUT) if is_image else (TEXT_INPUT, TEXT_OUTPUT)
    path = folder / ("vision_model.onnx" if is_image else "text_model.onnx")
    files = write_onnx(
        tower.eval(),
        example,
        path,
        input_name=names[0],
        output_name=names[1],
        opset=opset,
        longest=encoder.context_length if not is_image and has_dynamic_length(encoder) else None,
    )
    return {"fp32": describe_tower(folder, "onnx", path.name, names[0], names[1], files)}


def describe_tower(
    folder: Path, runtime: str, file: str, input_name: str, output: str, files: Sequence[str]
) -> dict[str, Any]:
    """Return the description of a tower's files, see `oneclip.runtime.Tower`."""
    sums = {}
    for name in files:
        content = (folder / name).read_bytes()
        sums[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"runtime": runtime, "file": file, "inputs": [input_name], "output": output, "files": sums}


def _write_tokenizer(encoder: Encoder, folder: Path) -> None:
    """Write the files of a tokenizer; CLIP's own needs none."""
    tokenizer: Any = encoder.tokenizer
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)


def _write_description(
    encoder: Encoder, folder: Path, towers: dict[str, dict[str, Any]], opset: int, uint8_input: bool
) -> None:
    content = {
        "format": FORMAT,
        "name": encoder.name,
        "made_by": {"oneclip": __version__, "torch": torch.__version__, "onnx": version("onnx")},
        "opset": opset,
        "model": encoder.cfg.to_dict(),
        "preprocess": encoder.preprocess_cfg.to_dict(),
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "image_size": list(encoder.image_size),
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "weights": encoder.weights_digest(),
        "dynamic_text_length": has_dynamic_length(encoder),
        "uint8_input": uint8_input,
        "towers": towers,
    }
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
