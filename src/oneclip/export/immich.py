"""Write an exported model in the folder layout of Immich's machine learning service.

Its `immich_ml/models/clip` reads `visual/model.onnx` with an input `image` and `textual/model.onnx` with an int32 input
`text`, in batches of one, `config.json` in open_clip's form, `visual/preprocess_cfg.json`, and `tokenizer.json` beside
the text tower.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.export.folder import describe_tower
from oneclip.export.onnx_export import require
from oneclip.export.request import ExportRequest, Towers
from oneclip.export.tokenizer_json import write_json, write_tokenizer_json
from oneclip.runtime.exported_model import Side

LAYOUT: dict[Side, tuple[str, str]] = {"image": ("visual", "image"), "text": ("textual", "text")}
"""Folder and name of the input of each tower."""
OUTPUT = "embedding"
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def write_immich(folder: Path, towers: Towers, *, encoder: Encoder, request: ExportRequest) -> Towers:
    """Change a folder with ONNX files to Immich's layout.

    Args:
        folder: that contains the towers.
        towers: their description, in one precision.
        encoder: the model in torch.
        request: how it is exported.

    Returns:
        The description of the moved towers.

    Raises:
        ConfigError: for several precisions, or a model whose images or texts Immich would prepare in another way.
    """
    if len(request.precisions) != 1:
        raise ConfigError(
            f"Immich reads one file per tower, and {len(request.precisions)} precisions were requested; choose one"
        )
    if request.uint8_input:
        raise ConfigError("Immich normalizes images itself; export without --uint8-input")
    precision = request.precisions[0]
    preprocess = preprocess_cfg(encoder)
    moved: Towers = {}
    for side, (name, input_name) in LAYOUT.items():
        (folder / name).mkdir()
        tower = towers[side][precision]
        files = rename_inputs(folder, tower, folder / name / "model.onnx", input_name)
        for old in tower["files"]:
            (folder / old).unlink()
        moved[side] = {
            precision: describe_tower(folder, "onnx", f"{name}/model.onnx", input_name, OUTPUT, files)
        }
    write_json(folder / "visual" / "preprocess_cfg.json", preprocess)
    write_json(folder / "config.json", model_config(encoder))
    canonicalize = (encoder.cfg.text_cfg.tokenizer_kwargs or {}).get("clean") == "canonicalize"
    write_tokenizer_json(encoder, folder / "textual", "Immich", lambda text: clean_text(text, canonicalize))
    return moved


def rename_inputs(folder: Path, tower: dict[str, Any], path: Path, input_name: str) -> list[str]:
    """Write an ONNX file with Immich's names; token ids become int32.

    Returns:
        Names of the written files, relative to the folder.
    """
    ir = require("onnx_ir")
    model = ir.load(folder / tower["file"])
    graph = model.graph
    old = graph.inputs[0]
    for value in (value for node in graph.all_nodes() for value in node.outputs):
        if value.name in (input_name, OUTPUT):  # names are unique in a graph
            value.name = f"{value.name}_of_{value.producer().op_type}"
    graph.outputs[0].name = OUTPUT
    if old.dtype == ir.DataType.INT64:
        ids = ir.Value(name=input_name, shape=old.shape, type=ir.TensorType(ir.DataType.INT32))
        cast = ir.node("Cast", [ids], attributes={"to": ir.DataType.INT64})
        old.replace_all_uses_with(cast.outputs[0])
        graph.inputs[0] = ids
        graph.insert_before(graph[0], cast)
    else:
        old.name = input_name
    data = f"{path.name}_data" if len(tower["files"]) > 1 else None
    ir.save(model, path, external_data=data)
    return [(path.parent / name).relative_to(folder).as_posix() for name in (path.name, data) if name]


def preprocess_cfg(encoder: Encoder) -> dict[str, Any]:
    """Return the content of `preprocess_cfg.json`.

    Raises:
        ConfigError: for steps that Immich does not have.
    """
    cfg = encoder.preprocess_cfg
    height, width = encoder.image_size
    if height != width:
        raise ConfigError(f"Immich needs square images, and {encoder.name} takes {height} x {width} pixels")
    if cfg.resize_mode not in ("shortest", "squash"):
        raise ConfigError(
            f"{encoder.name} resizes images by resize_mode {cfg.resize_mode!r}; Immich supports shortest and squash"
        )
    return {
        "size": [height, width],
        "mode": cfg.mode,
        "mean": list(cfg.mean),
        "std": list(cfg.std),
        "interpolation": cfg.interpolation,
        "resize_mode": cfg.resize_mode,
        "fill_color": cfg.fill_color,
    }


def model_config(encoder: Encoder) -> dict[str, Any]:
    """Return the content of `config.json`: the configuration of open_clip with the length of a text."""
    config = encoder.cfg.to_dict()
    return config | {"text_cfg": config["text_cfg"] | {"context_length": encoder.context_length}}


def clean_text(text: str, canonicalize: bool) -> str:
    """Clean a text as Immich does before the tokenizer."""
    text = " ".join(text.split())
    return text.translate(NO_PUNCTUATION).lower() if canonicalize else text
