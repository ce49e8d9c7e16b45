"""Load an exported folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from oneclip.errors import ConfigError
from oneclip.image import Truncated
from oneclip.runtime.encoder import RuntimeEncoder
from oneclip.runtime.exported_model import ExportedModel, is_exported
from oneclip.runtime.published import open_published


def load_exported(
    folder: str | os.PathLike[str],
    device: Any = None,
    precision: str | None = None,
    *,
    name: str | None = None,
    max_pixels: int | None = None,
    truncated: Truncated = "refuse",
    **others: Any,
) -> RuntimeEncoder:
    """Load an exported model.

    Args:
        folder: that `oneclip export` wrote, or of a published ONNX export, see `find_published`.
        device: "cpu" or "cuda"; None for the CPU.
        precision: one that was exported, such as "int8", or as `RuntimeEncoder.precision` has it, such as "onnx-int8";
            None or "auto" for "fp32" if it was exported, else for the first that was.
        name: of a published export; None for its folder.
        max_pixels, truncated: see `RuntimeEncoder`.
        others: options of `oneclip.load` that only a model in torch has; None for all of them.

    Raises:
        CheckpointError: if the folder is incomplete, damaged or changed.
        ConfigError: for a precision that was not exported, an unknown device, or an option that an exported model does
            not have.
        MissingExtraError: without the runtime, at the first image or text.
    """
    given = [name for name, value in others.items() if value is not None and name != "cache_dir"]
    if given:
        raise ConfigError(
            f"{folder} is an exported model, which has no {', '.join(given)}; set it when the model is exported"
        )
    if precision is not None:
        precision = precision.removeprefix("onnx-").removeprefix("openvino-")
    path = Path(folder).expanduser()
    model = ExportedModel.open(path) if is_exported(path) else open_published(path, name or str(path))
    return RuntimeEncoder(
        model,
        precision=None if precision == "auto" else precision,
        device="cpu" if device is None else str(device),
        max_pixels=max_pixels,
        truncated=truncated,
    )
