"""Plain types that training programs store with the weights, in pickles.

NumPy scalars become numbers, and NumPy arrays become empty records: the loss or step of a checkpoint is often such a
scalar, and a random state such an array.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from oneclip.checkpoint.readers.pickle_reader import AllowedGlobal, PickleError, Record

_SCALAR = re.compile(r"[<>=|]?[?bifu][1248]?")  # a dtype of NumPy, as in "<f4"
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")


def find_plain_type(module: str, name: str) -> AllowedGlobal | None:
    """Return what the name of a plain type means; None for any other name."""
    text = f"{module}.{name}"
    if module in _ARRAYS and name == "scalar":
        return AllowedGlobal(text, _scalar)
    if (module in _ARRAYS and name == "_reconstruct") or text == "numpy.ndarray":
        return AllowedGlobal(text, lambda arguments: Record("numpy.ndarray"))
    if text == "numpy.dtype" or re.fullmatch(r"numpy\.dtypes\.\w+DType", text):
        return AllowedGlobal(text, _dtype)
    if text == "_codecs.encode":
        return AllowedGlobal(text, _encode_bytes)
    if name == "AttributeDict" and module.startswith(
        ("lightning.", "lightning_fabric.", "pytorch_lightning.")
    ):
        return AllowedGlobal(text, lambda arguments: {})  # the hyperparameters of a Lightning module
    if text == "argparse.Namespace":
        return AllowedGlobal(text, lambda arguments: Record(text))
    if name == "set" and module in ("builtins", "__builtin__"):
        return AllowedGlobal(text, _set_elements)
    return None


def _dtype(arguments: tuple[Any, ...]) -> Record:
    return Record("numpy.dtype", {"spelling": arguments[0] if arguments else None})


def _scalar(arguments: tuple[Any, ...]) -> int | float | bool:
    """Read `(dtype, bytes)`. The byte order is little-endian on all machines that write these files."""
    match arguments:
        case (Record(kind="numpy.dtype", attributes={"spelling": str(spelling)}), bytes(data)):
            if len(spelling) < 8 and _SCALAR.fullmatch(spelling) and len(data) <= 8:
                dtype = np.dtype(spelling)
                if dtype.itemsize == len(data):
                    number: int | float | bool = np.frombuffer(data, dtype)[0].item()
                    return number
    raise PickleError("it describes a NumPy number in an unknown form")


def _encode_bytes(arguments: tuple[Any, ...]) -> bytes:
    """Read `(text, "latin1")`, which is how old pickles represent bytes."""
    match arguments:
        case (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
    raise PickleError("it describes bytes in an unknown form")


def _set_elements(arguments: tuple[Any, ...]) -> list[Any]:
    """Read `(elements,)` of a set, as a list."""
    match arguments:
        case ():
            return []
        case (list(elements),):
            return list(elements)
    raise PickleError("it describes a set without a list of elements")
