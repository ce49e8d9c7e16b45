"""A NumPy archive (`.npz`) to tensors: a zip of arrays, of which only plain numbers are read."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oneclip.checkpoint.readers.read_errors import Unsound, explained
from oneclip.checkpoint.readers.tensor_records import MOST_AXES
from oneclip.checkpoint.readers.zip_reader import Zip

LARGEST_HEADER = 2**14  # bytes that describe an array
SUFFIX = ".npy"
DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "V2": torch.bfloat16,  # NumPy has no name for it, and stores two bytes without a meaning
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u2": torch.uint16,
    "u1": torch.uint8,
    "b1": torch.bool,
}


def is_npz(path: Path) -> bool:
    """Whether a zip file holds nothing but arrays.

    Raises:
        CheckpointError: if it is damaged.
    """
    with explained(path):
        archive = Zip(path.open("rb"))
        archive.close()
        return bool(archive.entries) and all(name.endswith(SUFFIX) for name in archive.entries)


def read_npz(path: Path, values: bool = True) -> dict[str, Tensor]:
    """The arrays of a NumPy archive by name.

    Args:
        path: of the file.
        values: False to read no numbers: the tensors are on the meta device.

    Raises:
        CheckpointError: if it is damaged, or holds objects instead of numbers.
    """
    with explained(path):
        archive = Zip(path.open("rb"))
        try:
            return {name.removesuffix(SUFFIX): _array(archive, name, values) for name in archive.entries}
        finally:
            archive.close()


def _array(archive: Zip, name: str, values: bool) -> Tensor:
    start = io.BytesIO(archive.start(name, LARGEST_HEADER + 16))
    try:
        version = np.lib.format.read_magic(start)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = reader[version](start, max_header_size=LARGEST_HEADER)
    except Exception as error:  # what is no header makes its parser raise nearly anything
        raise Unsound(f"{name[:80]} is no array ({str(error)[:100]})") from error
    kind = DTYPES.get(dtype.str[1:]) if dtype.str[0] in "<|" else None
    if kind is None:
        raise Unsound(f"{name[:80]} holds {dtype.str[:20]}, and plain numbers were expected")
    if len(shape) > MOST_AXES or any(isinstance(n, bool) or not 0 <= n < 2**63 for n in shape):
        raise Unsound(f"{name[:80]} has a shape that no array has")
    begin, held = start.tell(), archive.entries[name].file_size
    if held - begin != math.prod(shape) * kind.itemsize:
        raise Unsound(f"{name[:80]}, of shape {tuple(shape)}, has {held - begin:,} bytes of numbers")
    if not values:
        return torch.empty(shape, dtype=kind, device="meta")
    numbers = torch.frombuffer(
        bytearray(memoryview(archive.read(name))[begin:]) or bytearray(1), dtype=torch.uint8
    )
    flat = numbers[: held - begin].view(kind)
    axes = range(len(shape))[::-1]
    return flat.view(shape[::-1]).permute(*axes) if is_fortran and len(shape) > 1 else flat.view(shape)
