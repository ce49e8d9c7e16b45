"""A safetensors file to tensors; its header is looked over before anything is made of it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.readers.read_errors import Unsound, explained
from oneclip.checkpoint.readers.tensor_records import MOST_AXES

LARGEST_HEADER = 2**23  # bytes; that of the largest published checkpoint has less than 2 ** 19
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


def read_stored(path: Path, values: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, and the texts that it holds beside them.

    Args:
        path: of the file.
        values: False to read the header only: the tensors are on the meta device.

    Raises:
        CheckpointError: if it is truncated, damaged, or says what cannot be.
    """
    from safetensors import SafetensorError, safe_open

    with explained(path):
        header, begin = _header(path)
        texts = header.pop("__metadata__", {})
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise Unsound("its metadata are no texts")
        blank = _checked(header, path.stat().st_size - begin)
        if not values:
            return blank, texts
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                return {name: file.get_tensor(name) for name in blank}, texts
        except SafetensorError as error:
            raise Unsound(f"it is truncated or damaged ({error})") from error


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the numbers begin."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length > path.stat().st_size - 8:
            raise Unsound("it is truncated: its header is longer than the file. Fetch it again")
        if length > LARGEST_HEADER:
            raise Unsound(f"its header has {length:,} bytes, which no checkpoint needs")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unsound(f"it is damaged: its header is no JSON ({str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise Unsound("it is damaged: its header is no table of tensors")
    return header, 8 + length


def _checked(header: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """Tensors without values, if what the header says of them can be true of `size` bytes."""
    blank: dict[str, Tensor] = {}
    end = 0
    for name, facts in sorted(header.items(), key=lambda item: _offsets(item[1])):
        shape, dtype = facts.get("shape"), DTYPES.get(str(facts.get("dtype")))
        if dtype is None:
            raise Unsound(
                f"{name[:80]} is of a type of numbers that is not known: {str(facts.get('dtype'))[:20]}"
            )
        if not isinstance(shape, list) or len(shape) > MOST_AXES or not all(map(_is_size, shape)):
            raise Unsound(f"{name[:80]} has a shape that no tensor has")
        first, last = _offsets(facts)
        if first != end or last - first != math.prod(shape) * dtype.itemsize:
            raise Unsound(
                f"{name[:80]}, of shape {tuple(shape)}, is said to lie in bytes {first:,} to {last:,}, which "
                "overlaps others, leaves gaps, or is not as long as that"
            )
        end = last
        blank[name] = torch.empty(shape, dtype=dtype, device="meta")
    if end != size:
        raise Unsound(
            f"it is truncated or damaged: {end:,} bytes of numbers were expected, {size:,} are there"
        )
    return blank


def _offsets(facts: Any) -> tuple[int, int]:
    match facts:
        case {"data_offsets": [first, last]} if _is_size(first) and _is_size(last) and first <= last:
            return first, last
    raise Unsound("its header does not say where its numbers lie")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
