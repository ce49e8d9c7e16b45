"""Convert an exported tower to fp16; norms, softmax and the normalization of the output stay in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneclip.export.onnx_export import require
from oneclip.export.onnx_file import save_onnx

KEPT = (
    "LayerNormalization",
    "RMSNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "BatchNormalization",
    "Softmax",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Clip",
    "Expand",
    "Div",
)
"""Operators that stay in fp32: norms and softmax, also in parts, whose sums and squares exceed the range of fp16; and
the normalization of the output, which would not have unit length."""


def write_fp16(source: Path, target: Path, **_: Any) -> None:
    """Write an ONNX file with weights and activations in fp16; its input and output keep their types.

    Args:
        source: ONNX file of a tower in fp32.
        target: ONNX file to write.

    Raises:
        MissingExtraError: without onnx and onnxruntime.
    """
    float16 = require("onnxruntime.transformers.float16")
    graph_of = require("onnxruntime.transformers.onnx_model").OnnxModel
    model = float16.convert_float_to_float16(
        str(source), keep_io_types=True, op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *KEPT]
    )
    graph = graph_of(model)
    _join_casts(graph)
    graph.prune_graph()
    _drop_shapes(model.graph)
    graph.topological_sort()  # the converter appends its casts at the end
    save_onnx(model, target)


def _join_casts(graph: Any) -> None:
    """Let an operator in fp32 read the output of another directly; the converter rounds it to fp16 in between."""
    types = require("onnx").TensorProto
    parents, outputs = graph.output_name_to_node(), set(graph.get_graphs_output_names())
    for node in list(graph.nodes()):
        parent = parents.get(node.input[0]) if _is_cast(node, types.FLOAT) else None
        if parent is None or not _is_cast(parent, types.FLOAT16):
            continue
        name, exact = node.output[0], parent.input[0]
        graph.remove_node(node)
        if name in outputs:
            graph.replace_output_of_all_nodes(exact, name)
            graph.replace_input_of_all_nodes(exact, name)
        else:
            graph.replace_input_of_all_nodes(name, exact)


def _drop_shapes(graph: Any) -> None:
    """Drop the types and shapes of tensors that are gone; ONNX Runtime needs those of the others."""
    computed = {name for node in graph.node for name in node.output} - {one.name for one in graph.output}
    kept = [one for one in graph.value_info if one.name in computed]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _is_cast(node: Any, to: int) -> bool:
    return node.op_type == "Cast" and any(one.name == "to" and one.i == to for one in node.attribute)
