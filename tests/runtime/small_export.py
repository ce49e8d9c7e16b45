"""Exported folders with towers of one product each, for which NumPy gives the right embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.image import Preprocess
from oneclip.image.decode import ImageSource, open_image
from oneclip.text import CLIPTokenizer

PIXELS, POOL, DIM, IDS = 16, 4, 16, 49_408
CFG = ModelCfg(
    DIM,
    CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=PIXELS),
    CLIPTextCfg(width=16, heads=2, layers=1),
)
PREPROCESS_CFG = PreprocessCfg(size=PIXELS)


@dataclass
class SmallExport:
    """An exported folder, and its arithmetic.

    Attributes:
        folder: that was written.
        pixel_weights: (3 * 16, DIM), of the means of 4 x 4 pixels.
        token_weights: (IDS, DIM); zero for the padding.
    """

    folder: Path
    pixel_weights: np.ndarray
    token_weights: np.ndarray

    def images(self, images: Sequence[ImageSource]) -> np.ndarray:
        """Compute the embeddings (N, DIM) of images."""
        pixels = np.stack([Preprocess(PREPROCESS_CFG).array(open_image(image)) for image in images])
        side = PIXELS // POOL
        means = pixels.astype(np.float64).reshape(-1, 3, side, POOL, side, POOL).mean(axis=(3, 5))
        return unit(means.reshape(len(means), -1) @ self.pixel_weights)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the embeddings (N, DIM) of texts."""
        ids = CLIPTokenizer().token_ids(texts)
        return unit(self.token_weights.astype(np.float64)[ids].sum(axis=1))

    def describe(self, **changes: Any) -> None:
        """Change fields of `oneclip.json`."""
        file = self.folder / "oneclip.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def write_small_export(folder: Path, precisions: Sequence[str] = ("fp32",), **changes: Any) -> SmallExport:
    """Write a folder as `oneclip export` does.

    Args:
        folder: to make.
        precisions: names under which the same towers are listed.
        changes: fields of `oneclip.json`.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    small = SmallExport(
        folder,
        random.standard_normal((3 * (PIXELS // POOL) ** 2, DIM)).astype(np.float32),
        random.standard_normal((IDS, DIM)).astype(np.float32),
    )
    small.token_weights[0] = 0
    write_image_tower(folder / "vision_model.onnx", small.pixel_weights)
    write_text_tower(folder / "text_model.onnx", small.token_weights)
    towers = {
        "image": _tower(folder / "vision_model.onnx", "pixel_values", "image_embeds"),
        "text": _tower(folder / "text_model.onnx", "input_ids", "text_embeds"),
    }
    description = {
        "format": 1,
        "name": "small",
        "made_by": {"oneclip": "0"},
        "opset": 17,
        "model": CFG.to_dict(),
        "preprocess": PREPROCESS_CFG.to_dict(),
        "embed_dim": DIM,
        "context_length": 77,
        "image_size": [PIXELS, PIXELS],
        "logit_scale": 20.0,
        "logit_bias": None,
        "weights": "5" * 64,
        "dynamic_text_length": True,
        "uint8_input": False,
        "towers": {side: dict.fromkeys(precisions, tower) for side, tower in towers.items()},
    }
    (folder / "oneclip.json").write_text(json.dumps({**description, **changes}))
    return small


def write_image_tower(
    path: Path, weights: np.ndarray, output: str = "image_embeds", norm: bool = True
) -> None:
    """Write means of 4 x 4 pixels, times weights; of unit length if `norm`."""
    nodes = [
        helper.make_node(
            "AveragePool", ["pixel_values"], ["means"], kernel_shape=[POOL, POOL], strides=[POOL, POOL]
        ),
        helper.make_node("Flatten", ["means"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["product"]),
        helper.make_node("LpNormalization" if norm else "Identity", ["product"], [output]),
    ]
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["B", 3, "H", "W"])
    _save(path, nodes, [pixels], output, {"weights": weights})


def write_text_tower(
    path: Path, weights: np.ndarray, output: str = "text_embeds", norm: bool = True, mask: bool = False
) -> None:
    """Write the sum of rows of weights, of unit length if `norm`; with `mask`, there is an attention mask to use."""
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["rows"]),
        helper.make_node("ReduceSum", ["masked" if mask else "rows", "axis"], ["sum"], keepdims=0),
        helper.make_node("LpNormalization" if norm else "Identity", ["sum"], [output]),
    ]
    values = {"weights": weights, "axis": np.array([1])}
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "L"])]
    if mask:
        values["last"] = np.array([2])
        nodes[1:1] = [
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["masked"]),
        ]
        inputs.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["B", "L"]))
    _save(path, nodes, inputs, output, values)


def _save(
    path: Path, nodes: list[Any], inputs: list[Any], output: str, values: dict[str, np.ndarray]
) -> None:
    embeddings = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", DIM])
    constants = [numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "tower", inputs, [embeddings], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _tower(path: Path, name: str, output: str) -> dict[str, Any]:
    content = path.read_bytes()
    files = {path.name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    return {"runtime": "onnx", "file": path.name, "inputs": [name], "output": output, "files": files}
