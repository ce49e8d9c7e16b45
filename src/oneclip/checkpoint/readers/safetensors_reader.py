"""Read safetensors files; the header is checked before anything is allocated."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.readers.read_errors import MalformedFile, as_checkpoint_error
from oneclip.checkpoint.readers.tensor_records import MAX_DIMS

MAX_HEADER_BYTES = 2**23  # the largest header of a published checkpoint has less than 2 ** 19
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: Path, values: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a safetensors file and its metadata.

    Args:
        path: of the file.
        values: False to read only the header: the tensors are then on the meta device.

    Raises:
        CheckpointError: if it is truncated or damaged, or its header contradicts itself or the file.
    """
    from safetensors import SafetensorError, safe_open

    with as_checkpoint_error(path):
        header, begin = _read_header(path)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise MalformedFile("its metadata contains something else than text")
        meta_tensors = _check_header(header, path.stat().st_size - begin)
        if not values:
            return meta_tensors, metadata
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name) for name in meta_tensors}, metadata
        except SafetensorError as error:
            raise MalformedFile(f"it is truncated or damaged ({error})") from error


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and the offset of the first number."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > path.stat().st_size - 8:
            raise MalformedFile("it is truncated: its header is longer than the file. Download it again")
        if length > MAX_HEADER_BYTES:
            raise MalformedFile(f"its header has {length:,} bytes; expected at most {MAX_HEADER_BYTES:,}")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedFile(f"it is damaged: its header is not JSON ({str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise MalformedFile("it is damaged: its header is not a table of tensors")
    return header, 8 + length


def _check_header(header: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """Return tensors on the meta device, after checking that the header fits the `size` bytes of numbers."""
    tensors: dict[str, Tensor] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(item[1])):
        shape, dtype = entry.get("shape"), DTYPES.get(str(entry.get("dtype")))
        if dtype is None:
            raise MalformedFile(f"{name[:80]} has the unknown dtype {str(entry.get('dtype'))[:20]}")
        if not isinstance(shape, list) or len(shape) > MAX_DIMS or not all(map(_is_size, shape)):
            raise MalformedFile(f"{name[:80]} has an invalid shape")
        first, last = _offsets(entry)
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise MalformedFile(
                f"{name[:80]}, of shape {tuple(shape)}, is stored in bytes {first:,} to {last:,}, which overlap "
                "others, leave gaps, or have another length than the tensor"
            )
        end = last
        tensors[name] = torch.empty(shape, dtype=dtype, device="meta")
    if end != size:
        raise MalformedFile(f"it is truncated or damaged: expected {end:,} bytes of numbers, found {size:,}")
    return tensors


def _offsets(entry: Any) -> tuple[int, int]:
    match entry:
        case {"data_offsets": [first, last]} if _is_size(first) and _is_size(last) and first <= last:
            return first, last
    raise MalformedFile("its header has no valid data_offsets for a tensor")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
