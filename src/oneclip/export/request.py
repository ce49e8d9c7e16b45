"""Targets, precisions and options of an export, and the functions that write each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from oneclip.errors import ConfigError, MissingExtraError

PRECISIONS = {  # a function write(fp32, path, side=, encoder=, request=): ONNX file in fp32 to another precision
    "fp32": "",
    "fp16": "oneclip.export.fp16:write_fp16",
    "int8": "oneclip.export.int8:write_int8",
}
TARGETS = {  # a function write(folder, towers, encoder=, request=) -> towers: changes a folder with ONNX files
    "onnx": "",
    "openvino": "oneclip.export.openvino_export:write_openvino",
    "immich": "oneclip.export.immich:write_immich",
    "transformersjs": "oneclip.export.transformersjs:write_transformersjs",
    "coreml": "oneclip.export.coreml:write_coreml",
}
WITHOUT_ONNX = ("coreml",)
"""Targets that are made from the model in torch: their function gets an empty folder and no towers."""

MIN_OPSET, DEFAULT_OPSET, MAX_OPSET = 18, 20, 23
"""Versions of ONNX's operators: the exporter of torch writes 18, and ONNX Runtime 1.20 to 1.22 end at 21 to 23."""

PACKAGES = {  # extra and its packages that a target needs
    "openvino": ("export,openvino", ("onnx", "onnxscript", "onnxruntime", "openvino")),
    "coreml": ("coreml", ("coremltools",)),
}

Towers = dict[str, dict[str, dict[str, Any]]]
"""Description of towers as in `oneclip.json`: by side, "image" and "text", and precision; see `describe_tower`."""


@dataclass(frozen=True)
class ExportRequest:
    """Options of an export, see `oneclip.export.export`."""

    to: str = "onnx"
    precisions: tuple[str, ...] = ("fp32",)
    opset: int = DEFAULT_OPSET
    uint8_input: bool = False
    max_drop: float = 0.001
    check: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_request(self.to, self.precisions)
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise ConfigError(
                f"opset is {self.opset}; expected {MIN_OPSET} to {MAX_OPSET} ({DEFAULT_OPSET} by default)"
            )


def check_request(to: str, precisions: Sequence[str]) -> None:
    """Check a target and precisions, and that what they need is installed.

    Raises:
        ConfigError: for an unknown target or precision.
        MissingExtraError: without the packages of the target.
    """
    if to not in TARGETS:
        raise ConfigError(f"unknown target {to!r}; available: {', '.join(TARGETS)}")
    unknown = [one for one in precisions if one not in PRECISIONS]
    if unknown or not precisions:
        raise ConfigError(
            f"unknown precision {', '.join(map(repr, unknown)) or 'nothing'}; available: {', '.join(PRECISIONS)}"
        )
    for kind, name, table in [("target", to, TARGETS), *(("precision", p, PRECISIONS) for p in precisions)]:
        module = table[name].partition(":")[0]
        if module and find_spec(module) is None:
            raise ConfigError(f"the {kind} {name!r} cannot be exported by this version of oneclip")
    extra, packages = PACKAGES.get(to, ("export", ("onnx", "onnxscript", "onnxruntime")))
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(f"Exporting a model needs {package}", extra)


def writer(entry: str) -> Callable[..., Any]:
    """Import a function of `PRECISIONS` or `TARGETS`."""
    module, _, name = entry.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function
