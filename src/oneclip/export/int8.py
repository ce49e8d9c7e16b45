"""Quantize an exported tower to int8 with ONNX Runtime's tools.

Matrix products are quantized dynamically: the range of their inputs is measured in each call, so no data is needed. A
tower that consists of convolutions is quantized statically, because ONNX Runtime has no fast dynamic convolution: the
ranges are measured once, on calibration data. Weights have a scale per output channel. The first and the last layer
stay in fp32.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.export.calibration import calibration_batches
from oneclip.export.onnx_export import MAX_INLINE_BYTES, require
from oneclip.export.onnx_file import save_onnx, weight_layers
from oneclip.export.request import ExportRequest
from oneclip.runtime.exported_model import Side
from oneclip.runtime.sessions import open_session

Batches = Sequence[Mapping[str, NDArray[Any]]]

WEIGHTS = (("QInt8", True), ("QUInt8", False))
"""Type of the weights, and whether they have 7 bits. Processors without VNNI add pairs of products in 16 bits, which
overflow with signed weights of 8 bits. Unsigned weights do not overflow, but are slower on such processors."""
CONVOLUTIONAL = 0.5
"""Share of the weights in convolutions from which a tower is quantized statically."""
COMPARED = 4
"""Batches on which both kinds of weights are compared with fp32."""


def write_int8(source: Path, target: Path, *, side: Side, encoder: Encoder, request: ExportRequest) -> None:
    """Write an ONNX file with its matrix products, or its convolutions, in int8.

    The weights have 7 bits; or 8, if the median cosine to fp32 is then lower than 1 - `request.max_drop` / 2.

    Args:
        source: ONNX file of a tower in fp32.
        target: ONNX file to write.
        side: of the tower.
        encoder: with the preprocessing and the tokenizer, for the calibration data.
        request: its `check` is the data to calibrate on; without it, pocket's sample and generated inputs.

    Raises:
        MissingExtraError: without onnx and onnxruntime.
        ConfigError: if the tower has no layer to quantize.
        DataError: if the calibration data cannot be read.
    """
    batches = list(calibration_batches(encoder, side, request.check, uint8=request.uint8_input))
    compared = batches[:: max(1, -(-len(batches) // COMPARED))]
    output = require("onnx").load(str(source), load_external_data=False).graph.output[0].name
    expected = _run(source, output, compared)
    for weight_type, reduce_range in WEIGHTS:
        quantize(source, target, batches, weight_type=weight_type, reduce_range=reduce_range)
        if np.median((expected * _run(target, output, compared)).sum(1)) >= 1 - request.max_drop / 2:
            return


def quantize(source: Path, target: Path, batches: Batches, *, weight_type: str, reduce_range: bool) -> None:
    """Quantize a tower dynamically, or statically if it consists of convolutions.

    Args:
        source, target: ONNX files.
        batches: to calibrate on.
        weight_type: "QInt8" or "QUInt8".
        reduce_range: use 7 bits.

    Raises:
        ConfigError: if the tower has no layer to quantize.
    """
    tools = require("onnxruntime.quantization")
    model = require("onnx").load(str(source))
    options: dict[str, Any] = {
        "per_channel": True,
        "weight_type": tools.QuantType[weight_type],
        "reduce_range": reduce_range,
        "use_external_data_format": model.ByteSize() > MAX_INLINE_BYTES,
    }
    is_dynamic = convolutional_share(model.graph) < CONVOLUTIONAL
    types = ["MatMul", "Gemm"] if is_dynamic else ["Conv", "MatMul", "Gemm"]
    options["nodes_to_exclude"] = _kept(model.graph, types)
    with _quiet():
        model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")  # shapes are there
        if is_dynamic:  # a Gemm becomes a MatMul first
            tools.quantize_dynamic(model, target, op_types_to_quantize=["MatMul"], **options)
        else:
            tools.quantize_static(
                model,
                target,
                _Reader(batches),
                op_types_to_quantize=types,
                activation_type=tools.QuantType.QUInt8,
                extra_options={"MatMulConstBOnly": True, "CalibMaxIntermediateOutputs": 4},
                **options,
            )
    data = target.with_name(f"{target.name}.data")
    if data.exists():  # of a large model; the file has the name that the tools give it
        model = require("onnx").load(str(target))
        data.unlink()
        save_onnx(model, target)


def convolutional_share(graph: Any) -> float:
    """Return the share of the weights between the first and the last layer that are in convolutions."""
    layers = list(weight_layers(graph))[1:-1]
    convolutions = sum(count for node, count in layers if node.op_type == "Conv")
    return convolutions / max(1, sum(count for _, count in layers))


class _Reader:
    """Calibration data as ONNX Runtime's tools read it."""

    def __init__(self, batches: Batches) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Mapping[str, NDArray[Any]] | None:
        """Return the next inputs by name; None after the last."""
        return next(self._batches, None)


def _kept(graph: Any, types: Sequence[str]) -> list[str]:
    """Return the names of the first and the last layer with weights, also as they are called after Gemm is replaced.

    Raises:
        ConfigError: if no other layer has weights.
    """
    layers = [node for node, _ in weight_layers(graph)]
    if not any(node.op_type in types for node in layers[1:-1]):
        raise ConfigError(
            "this tower has no layer between its first and its last to quantize; export it in fp32"
        )
    kept = (layers[0].name, layers[-1].name)
    return [*kept, *(f"{name}_MatMul" for name in kept)]


def _run(path: Path, output: str, batches: Batches) -> NDArray[np.float32]:
    session = open_session("onnx", path, output, "cpu")
    return np.concatenate([session.run(dict(batch)) for batch in batches])


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tools, which log to the root of all loggers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
