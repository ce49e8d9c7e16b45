"""Read the numeric arrays of a NumPy archive (`.npz`)."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from oneclip.checkpoint.readers.read_errors import MalformedFile, as_checkpoint_error
from oneclip.checkpoint.readers.tensor_records import MAX_DIMS
from oneclip.checkpoint.readers.zip_reader import CheckedZip

MAX_HEADER_BYTES = 2**14  # of the description of one array
ARRAY_SUFFIX = ".npy"
DTYPES = {
    "f8": torch.float64,
    "f4": torch.float32,
    "f2": torch.float16,
    "V2": torch.bfloat16,  # NumPy has no bfloat16 and stores two bytes of an unknown type
    "i8": torch.int64,
    "i4": torch.int32,
    "i2": torch.int16,
    "i1": torch.int8,
    "u2": torch.uint16,
    "u1": torch.uint8,
    "b1": torch.bool,
}


def is_npz(path: Path) -> bool:
    """Report whether a zip file contains only arrays.

    Raises:
        CheckpointError: if it is damaged.
    """
    with as_checkpoint_error(path):
        archive = CheckedZip(path.open("rb"))
        archive.close()
        return bool(archive.entries) and all(name.endswith(ARRAY_SUFFIX) for name in archive.entries)


def read_npz(path: Path, values: bool = True) -> dict[str, Tensor]:
    """Read the arrays of a NumPy archive, by name.

    Args:
        path: of the file.
        values: False to read no numbers: the tensors are then on the meta device.

    Raises:
        CheckpointError: if it is damaged, or contains objects instead of numbers.
    """
    with as_checkpoint_error(path):
        archive = CheckedZip(path.open("rb"))
        try:
            return {
                name.removesuffix(ARRAY_SUFFIX): _read_array(archive, name, values)
                for name in archive.entries
            }
        finally:
            archive.close()


def _read_array(archive: CheckedZip, name: str, values: bool) -> Tensor:
    start = io.BytesIO(archive.start(name, MAX_HEADER_BYTES + 16))
    try:
        version = np.lib.format.read_magic(start)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = reader[version](start, max_header_size=MAX_HEADER_BYTES)
    except Exception as error:  # NumPy's parser raises nearly any exception for an invalid header
        raise MalformedFile(f"{name[:80]} is not an array ({str(error)[:100]})") from error
    torch_dtype = DTYPES.get(dtype.str[1:]) if dtype.str[0] in "<|" else None
    if torch_dtype is None:
        raise MalformedFile(f"{name[:80]} contains {dtype.str[:20]}; expected plain numbers")
    if len(shape) > MAX_DIMS or any(isinstance(n, bool) or not 0 <= n < 2**63 for n in shape):
        raise MalformedFile(f"{name[:80]} has an invalid shape")
    begin, stored_bytes = start.tell(), archive.entries[name].file_size
    if stored_bytes - begin != math.prod(shape) * torch_dtype.itemsize:
        raise MalformedFile(
            f"{name[:80]}, of shape {tuple(shape)}, has {stored_bytes - begin:,} bytes of numbers"
        )
    if not values:
        return torch.empty(shape, dtype=torch_dtype, device="meta")
    numbers = torch.frombuffer(
        bytearray(memoryview(archive.read(name))[begin:]) or bytearray(1), dtype=torch.uint8
    )
    flat = numbers[: stored_bytes - begin].view(torch_dtype)
    dims = range(len(shape))[::-1]
    return flat.view(shape[::-1]).permute(*dims) if is_fortran and len(shape) > 1 else flat.view(shape)
