"""Build archives and pickles by hand, with content that no normal program writes."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def mapping(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key.replace("__", ".")) + value for key, value in items.items()) + b"u"


def record(kind: str, **attributes: bytes) -> bytes:
    """Pickle an object of a class in the archive, as TorchScript does."""
    module, _, attribute = kind.rpartition(".")
    return name(module, attribute) + b")\x81" + mapping(**attributes) + b"b"


def tensor(
    key: str,
    shape: tuple[int, ...],
    *,
    stride: tuple[int, ...] | None = None,
    offset: int = 0,
    count: int | None = None,
    storage: str = "FloatStorage",
) -> bytes:
    """Pickle the description of a tensor, contiguous by default."""
    steps, size = [], 1
    for length in reversed(shape):
        steps.insert(0, size)
        size *= length
    count = size if count is None else count
    where = b"(" + text("storage") + name("torch", storage) + text(key) + text("cpu") + number(count) + b"tQ"
    hooks = call(name("collections", "OrderedDict"))
    layout = numbers(shape) + numbers(tuple(steps) if stride is None else stride)
    return call(name("torch._utils", "_rebuild_tensor_v2"), where, number(offset), layout, b"\x89", hooks)


def archive(
    path: Path,
    content: bytes,
    storages: Mapping[str, bytes],
    *,
    root: str = "archive/",
    others: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write a zip file with a pickle and storages."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(root + "data.pkl", b"\x80\x02" + content + b".")
        for key, data in storages.items():
            file.writestr(f"{root}data/{key}", data)
        for key, data in (others or {}).items():
            file.writestr(root + key, data)
    return path


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)
