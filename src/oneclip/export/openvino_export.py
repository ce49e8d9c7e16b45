"""Convert exported ONNX files to OpenVINO's format: an XML file with the graph and a BIN file with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneclip.errors import ConfigError
from oneclip.export.folder import describe_tower
from oneclip.export.request import Towers
from oneclip.runtime.sessions import import_runtime


def write_openvino(folder: Path, towers: Towers, **_: Any) -> Towers:
    """Replace the ONNX files of a folder by OpenVINO's.

    Weights in fp16 stay in fp16 on disk. Norms and softmax are computed in fp32, as in the ONNX file.

    Args:
        folder: with the ONNX files.
        towers: description of them.

    Returns:
        Description of the new files.

    Raises:
        MissingExtraError: without OpenVINO.
        ConfigError: if OpenVINO cannot convert a file; the message has its reason.
    """
    openvino = import_runtime("openvino", "OpenVINO", "openvino")
    converted: Towers = {side: {} for side in towers}
    for side, precisions in towers.items():
        for precision, tower in precisions.items():
            source = folder / tower["file"]
            target = source.with_suffix(".xml")
            try:
                model = openvino.convert_model(source)
                openvino.save_model(model, target, compress_to_fp16=False)
            except Exception as error:  # of OpenVINO's own types
                raise ConfigError(
                    f"OpenVINO cannot convert the {side} tower in {precision}: {error}"
                ) from error
            files = [target.name, target.with_suffix(".bin").name]
            converted[side][precision] = describe_tower(
                folder, "openvino", target.name, tower["inputs"][0], tower["output"], files
            )
            for name in tower["files"]:
                (folder / name).unlink()
    return converted
