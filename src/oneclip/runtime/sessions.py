"""Sessions of ONNX Runtime and OpenVINO behind one interface.

Shapes: B batch, D joint embedding.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import CheckpointError, ConfigError, MissingExtraError
from oneclip.hardware import available_processors

Arrays = dict[str, NDArray[Any]]


class Session(Protocol):
    """A tower that is ready to run."""

    def run(self, inputs: Arrays) -> NDArray[np.float32]:
        """Run the tower on inputs by name; returns (B, D) float32. May be called in several threads."""
        ...


class OnnxSession:
    """Session of ONNX Runtime.

    Args:
        path: of the ONNX file.
        output: name of the output.
        device: "cpu" or "cuda".

    Raises:
        MissingExtraError: without ONNX Runtime.
        ConfigError: if ONNX Runtime does not support the device.
        CheckpointError: if the file cannot be opened; an older runtime cannot read a newer opset.
    """

    def __init__(self, path: Path, output: str, device: str = "cpu") -> None:
        runtime = import_runtime("onnxruntime", "ONNX Runtime", "onnx")
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        available = runtime.get_available_providers()
        if provider not in available:
            raise ConfigError(
                f"this ONNX Runtime has no {provider}, only {', '.join(available)}; for CUDA install onnxruntime-gpu"
            )
        options = runtime.SessionOptions()
        # the variable divides processors among processes, as those of `oneclip serve --workers`
        threads = os.environ.get("OMP_NUM_THREADS", "")
        options.intra_op_num_threads = int(threads) if threads.isdecimal() else available_processors()
        options.log_severity_level = 3  # errors
        self._output = output
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # of many types, without a base class
            raise CheckpointError(
                f"ONNX Runtime {runtime.__version__} cannot open {path}: {str(error)[:300]}. Update onnxruntime, or "
                "export the model again with a lower --opset"
            ) from error
        self._types = {one.name: one.type for one in self._session.get_inputs()}

    def run(self, inputs: Arrays) -> NDArray[np.float32]:
        """See `Session`."""
        inputs = {name: _cast(x, self._types[name]) for name, x in inputs.items() if name in self._types}
        (embeddings,) = self._session.run([self._output], inputs)
        return np.asarray(embeddings, np.float32)


class OpenVinoSession:
    """Session of OpenVINO on the CPU.

    Args:
        path: of the XML file.
        output: name of the output.

    Raises:
        MissingExtraError: without OpenVINO.
        CheckpointError: if the file cannot be opened.
    """

    def __init__(self, path: Path, output: str) -> None:
        runtime = import_runtime("openvino", "OpenVINO", "openvino")
        try:
            # some processors would compute in bf16 otherwise
            self._model = runtime.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            self._output = self._model.output(output)
        except Exception as error:  # of OpenVINO's own types
            raise CheckpointError(
                f"OpenVINO {runtime.__version__} cannot open {path}: {str(error)[:300]}. Update openvino, or export "
                "the model again"
            ) from error

    def run(self, inputs: Arrays) -> NDArray[np.float32]:
        """See `Session`."""
        found = self._model.create_infer_request().infer(inputs)
        return np.array(found[self._output], np.float32)


def _cast(values: NDArray[Any], kind: str) -> NDArray[Any]:
    return values.astype(np.int32) if kind == "tensor(int32)" else values


def open_session(runtime: str, path: Path, output: str, device: str) -> Session:
    """Open a tower in the runtime that it was exported for.

    Raises:
        CheckpointError: for an unknown runtime, or as of the sessions.
        ConfigError: if the runtime does not support the device.
    """
    if runtime == "onnx":
        return OnnxSession(path, output, device)
    if runtime == "openvino":
        if device != "cpu":
            raise ConfigError(f"a model for OpenVINO runs on the CPU, not on {device!r}")
        return OpenVinoSession(path, output)
    raise CheckpointError(f"{path} is for the runtime {runtime!r}; available: onnx, openvino")


def import_runtime(module: str, name: str, extra: str) -> Any:
    """Import a runtime.

    Raises:
        MissingExtraError: naming the extra that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(f"Running this exported model needs {name}", extra) from error
