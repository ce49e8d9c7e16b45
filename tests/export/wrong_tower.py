"""A tower that is not what was to be exported, written in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor, nn


def write_wrong_tower(tower: nn.Module, example: Tensor, path: Path, **names: Any) -> None:
    """Write a tower that gives the same embedding to every input."""
    helper, values = onnx.helper, onnx.TensorProto
    one = np.zeros((1, 16), np.float32)
    one[0, 0] = 1
    nodes = [
        helper.make_node("Shape", [names["input_name"]], ["shape"], start=0, end=1),
        helper.make_node("Concat", ["shape", "width"], ["both"], axis=0),
        helper.make_node("Expand", ["one", "both"], [names["output_name"]]),
    ]
    axes: list[Any] = ["B", *example.shape[1:]] if example.ndim == 4 else ["B", "L"]
    kind = values.FLOAT if example.ndim == 4 else values.INT64
    graph = helper.make_graph(
        nodes,
        "wrong",
        [helper.make_tensor_value_info(names["input_name"], kind, axes)],
        [helper.make_tensor_value_info(names["output_name"], values.FLOAT, ["B", 16])],
        [onnx.numpy_helper.from_array(one, "one"), onnx.numpy_helper.from_array(np.array([16]), "width")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
