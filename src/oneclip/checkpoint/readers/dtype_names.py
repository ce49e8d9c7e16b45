"""Names of plain types, as training programs store them beside weights, to what stands for them here.

NumPy's scalars become numbers and its arrays empty records: a checkpoint's loss or step is often such a scalar,
and a random state such an array.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from oneclip.checkpoint.readers.pickle_reader import Name, PickleError, Record

_SCALAR = re.compile(r"[<>=|]?[?bifu][1248]?")  # a type of single numbers, as NumPy spells it
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")


def lookup(module: str, name: str) -> Name | None:
    """What stands for a plain type, or None for any other name."""
    text = f"{module}.{name}"
    if module in _ARRAYS and name == "scalar":
        return Name(text, _scalar)
    if (module in _ARRAYS and name == "_reconstruct") or text == "numpy.ndarray":
        return Name(text, lambda arguments: Record("numpy.ndarray"))
    if text == "numpy.dtype" or re.fullmatch(r"numpy\.dtypes\.\w+DType", text):
        return Name(text, _dtype)
    if text == "_codecs.encode":
        return Name(text, _encoded)
    if name == "AttributeDict" and module.startswith(
        ("lightning.", "lightning_fabric.", "pytorch_lightning.")
    ):
        return Name(text, lambda arguments: {})  # the hyperparameters of a Lightning module
    if text == "argparse.Namespace":
        return Name(text, lambda arguments: Record(text))
    if name == "set" and module in ("builtins", "__builtin__"):
        return Name(text, _list)
    return None


def _dtype(arguments: tuple[Any, ...]) -> Record:
    return Record("numpy.dtype", {"spelling": arguments[0] if arguments else None})


def _scalar(arguments: tuple[Any, ...]) -> int | float | bool:
    """`(dtype, bytes)` to the number; the byte order of a dtype is in its state, and little on all machines
    that write these files."""
    match arguments:
        case (Record(kind="numpy.dtype", attributes={"spelling": str(spelling)}), bytes(data)):
            if len(spelling) < 8 and _SCALAR.fullmatch(spelling) and len(data) <= 8:
                dtype = np.dtype(spelling)
                if dtype.itemsize == len(data):
                    number: int | float | bool = np.frombuffer(data, dtype)[0].item()
                    return number
    raise PickleError("it describes a number of NumPy's in a way that is not known")


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    """`(text, "latin1")`, by which old pickles hold bytes."""
    match arguments:
        case (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
    raise PickleError("it describes bytes in a way that is not known")


def _list(arguments: tuple[Any, ...]) -> list[Any]:
    """`(elements,)` of a set to a list of them."""
    match arguments:
        case ():
            return []
        case (list(elements),):
            return list(elements)
    raise PickleError("it describes a set by something that is no list")
