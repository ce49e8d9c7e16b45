"""Use of torchvision's Python code with a torch that its compiled operators do not support.

A wheel of torchvision from the package index expects a CUDA build of torch. Next to a CPU-only torch its
operators are absent, and its import fails where it adds to two of them. Declaring their names first is enough
for the transforms.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from torch import library

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[library.Library] = []  # declarations live as long as the library object


def declare_operators() -> None:
    """Declare the operators that torchvision's import looks for, once."""
    if not _declared:
        fragment = library.Library("torchvision", "FRAGMENT")
        for operator in _OPERATORS:
            fragment.define(operator)
        _declared.append(fragment)


def import_torchvision(module: str = "torchvision.transforms") -> ModuleType:
    """Import a module of torchvision, or skip the test where torchvision is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    declare_operators()
    return importlib.import_module(module)
