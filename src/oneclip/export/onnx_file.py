"""Read and write ONNX files of any size, and find the layers with weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oneclip.export.onnx_export import MAX_INLINE_BYTES, require

LAYERS = ("Conv", "MatMul", "Gemm", "Gather")
"""Operators with a matrix of weights; Gather is the embedding of tokens."""


def save_onnx(model: Any, path: Path) -> None:
    """Write a model; weights beyond 2 GB go to a file beside it, `NAME.onnx_data`."""
    large = model.ByteSize() > MAX_INLINE_BYTES
    data = f"{path.name}_data"
    require("onnx").save_model(
        model, str(path), save_as_external_data=large, location=data if large else None
    )


def weight_layers(graph: Any) -> Iterator[tuple[Any, int]]:
    """Yield each node that has a constant matrix, in the order of computation, and the number of its weights."""
    sizes = {
        one.name: _count(one.dims)
        for one in graph.initializer
        if len(one.dims) > 1 and one.data_type in (1, 10)  # float32 and float16
    }
    for node in graph.node:
        if node.op_type in LAYERS:
            count = max((sizes.get(name, 0) for name in node.input[:2]), default=0)
            if count:
                yield node, count


def _count(dims: Any) -> int:
    count = 1
    for size in dims:
        count *= size
    return count
