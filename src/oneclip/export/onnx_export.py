"""Write a tower as an ONNX file."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oneclip.errors import ConfigError, MissingExtraError
from oneclip.export.request import DEFAULT_OPSET

MAX_INLINE_BYTES = 2**31 - 2**20  # a larger protobuf cannot be read; its weights go into a file beside it


def write_onnx(
    tower: nn.Module,
    example: Tensor,
    path: Path,
    *,
    input_name: str,
    output_name: str,
    opset: int = DEFAULT_OPSET,
    longest: int | None = None,
) -> None:
    """Write a tower with a dynamic batch; weights beyond 2 GB go to a file beside it, `NAME.onnx_data`.

    Args:
        tower: with one input and one output.
        example: an input of at least two rows.
        path: of the ONNX file.
        input_name, output_name: in the file.
        opset: version of the operators.
        longest: the greatest length of the second axis, if it is dynamic too.

    Raises:
        MissingExtraError: without onnx and onnxscript.
        ConfigError: if an operator of the tower cannot be exported; the message names it.
    """
    for package in ("onnx", "onnxscript"):
        require(package)
    shapes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if longest is not None:
        shapes[1] = torch.export.Dim("length", min=2, max=longest)
    with _quiet():
        try:
            program = torch.onnx.export(
                tower,
                (example,),
                dynamo=True,
                input_names=[input_name],
                output_names=[output_name],
                dynamic_shapes=(shapes,),
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:  # of many types, without a base class
            raise ConfigError(
                f"the tower {type(tower).__name__} of this model cannot be exported to ONNX: {_reason(error)}"
            ) from error
    assert program is not None
    constants = [value.const_value for value in program.model.graph.initializers.values()]
    weights = sum(int(tensor.nbytes) for tensor in constants if tensor is not None)
    data = f"{path.name}_data" if weights > MAX_INLINE_BYTES else None
    require("onnx_ir").save(program.model, path, external_data=data)


def require(package: str) -> Any:
    """Import a package of the extra "export".

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingExtraError("Exporting a model", "export") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter prints and warns about its own parts."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """Return the innermost message of an error, which names the operator."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
