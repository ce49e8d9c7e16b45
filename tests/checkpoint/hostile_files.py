"""Writers of hostile archives, safetensors files, NumPy archives and indices; see `hostile`."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import forged
import numpy as np
import torch
from forged import mapping, record
from hostile import FOUR, WEIGHT, Writer, in_archive, written
from safetensors.torch import save_file

PICKLE = b"\x80\x02" + mapping(w=WEIGHT) + b"."
GOOD = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}


def archives() -> Iterator[tuple[str, Writer]]:
    """Iterate over zip files with wrong or hostile entries."""
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED

    def zipped(entries: Mapping[str, bytes], compression: int = stored) -> Writer:
        def write(folder: Path) -> Path:
            with zipfile.ZipFile(folder / "m.pt", "w", compression) as file:
                for name, data in entries.items():
                    file.writestr(name, data)
            return folder / "m.pt"

        return write

    def changed(place: int, value: bytes, compression: int = stored, where: bytes = b"PK\x01\x02") -> Writer:
        """Replace bytes of the last entry in the directory, or of another record."""

        def write(folder: Path) -> Path:
            path = forged.archive(folder / "m.pt", mapping(w=WEIGHT), FOUR, compression=compression)
            data = bytearray(path.read_bytes())
            at = data.rindex(where) + place
            data[at : at + len(value)] = value
            path.write_bytes(data)
            return path

        return write

    def twice(folder: Path) -> Path:
        path = forged.archive(folder / "m.pt", mapping(w=WEIGHT), FOUR)
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("archive/data/0", forged.floats(5, 6, 7, 8))
        return path

    def overlapping(folder: Path) -> Path:
        """Write a list of entries that all refer to the same data."""
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", deflated) as file:
            file.writestr("archive/data/0", bytes(10**6))
        data = inner.getvalue()
        start = data.index(b"PK\x01\x02")
        entry = data[start : data.index(b"PK\x05\x06")]
        entries = b"".join(entry.replace(b"data/0", b"dat%03d" % n) for n in range(1000))
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
        (folder / "m.pt").write_bytes(data[:start] + entries + end)
        return folder / "m.pt"

    def crowded(folder: Path) -> Path:
        """Write a list of a million empty entries."""
        entry = (
            struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
        )
        entries = entry * 1_000_000
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entries), 0, 0)
        (folder / "m.pt").write_bytes(b"PK\x03\x04" + entries + end)
        return folder / "m.pt"

    yield "zip: not one at all", lambda folder: written(folder / "m.pt", b"PK\x03\x04" + bytes(100))
    yield "zip: an empty one", lambda folder: written(folder / "m.pt", b"PK\x05\x06" + bytes(18))
    yield "zip: without a pickle", zipped({"archive/data/0": FOUR["0"]})
    yield "zip: an image", zipped({"cat.png": b""})
    yield "zip: two pickles", zipped({"a/data.pkl": PICKLE, "b/data.pkl": PICKLE, "a/data/0": FOUR["0"]})
    yield "zip: a pickle outside", zipped({"../data.pkl": PICKLE, "../data/0": FOUR["0"], "/x": b""})
    yield "zip: an empty pickle", zipped({"a/data.pkl": b""})
    yield "zip: big-endian", zipped({"a/data.pkl": PICKLE, "a/data/0": FOUR["0"], "a/byteorder": b"big"})
    yield "zip: a folder for a storage", zipped({"a/data.pkl": PICKLE, "a/data/0/": b""})
    yield "zip: entries of one name", twice
    yield "zip: entries that overlap", overlapping
    yield "zip: a million entries", crowded
    yield "zip: a bomb of zeros", zipped({"a/data.pkl": PICKLE, "a/data/0": bytes(10**8)}, deflated)
    yield "zip: a bomb of bzip2", zipped({"a/data.pkl": PICKLE, "a/data/0": bytes(10**8)}, zipfile.ZIP_BZIP2)
    yield "zip: a bomb of lzma", zipped({"a/data.pkl": PICKLE, "a/data/0": bytes(10**8)}, zipfile.ZIP_LZMA)
    yield "zip: a pickle that is a bomb", zipped({"a/data.pkl": bytes(10**8)}, deflated)
    for compression, form in ((stored, "stored"), (deflated, "packed")):
        for size in (0, 1, 1000, 2**31, 2**32 - 1):
            lie = size.to_bytes(4, "little")
            yield f"zip: {form}, {size} bytes unpacked", changed(24, lie, compression)
            yield f"zip: {form}, {size} bytes packed", changed(20, lie, compression)
        yield f"zip: {form}, is elsewhere", changed(42, (2**31).to_bytes(4, "little"), compression)
        yield f"zip: {form}, encrypted", changed(8, b"\x01\x00", compression)
        yield f"zip: {form}, an unknown method", changed(10, b"\x63\x00", compression)
        yield f"zip: {form}, another checksum", changed(16, b"\x01\x02\x03\x04", compression)
        yield f"zip: {form}, a later version", changed(6, b"\xff\x00", compression)
    yield "zip: a list that is too long", changed(12, (2**31).to_bytes(4, "little"), where=b"PK\x05\x06")
    yield "zip: a list that is elsewhere", changed(16, (2**31).to_bytes(4, "little"), where=b"PK\x05\x06")
    itself = forged.name("__torch__", "A") + b")\x81q\x01" + mapping(a=b"h\x01") + b"b"
    yield "script: a module in itself", in_archive(itself)
    doubling = record("__torch__.A", w=WEIGHT)
    for place in range(40):
        again = b"h" + bytes([place])
        doubling += b"q" + bytes([place]) + b"0" + record("__torch__.A", a=again, b=again)
    yield "script: a million million modules", in_archive(doubling)
    yield "script: no weights", in_archive(record("__torch__.A"))


def stored() -> Iterator[tuple[str, Writer]]:
    """Iterate over safetensors files with a wrong header."""

    def file(header: Any, data: bytes = bytes(16), length: int | None = None) -> Writer:
        content = header if isinstance(header, bytes) else json.dumps(header).encode()

        def write(folder: Path) -> Path:
            size = struct.pack("<Q", len(content) if length is None else length)
            return written(folder / "m.safetensors", size + content + data)

        return write

    def one(**facts: Any) -> Writer:
        return file({"w": GOOD["w"] | facts})

    yield "safetensors: no header", file(b"{", b"", 10**9)
    yield "safetensors: a header as long as memory", file(b"{", b"", 2**63)
    yield (
        "safetensors: a header of a hundred megabytes",
        lambda folder: _sparse(folder / "m.safetensors", 10**8),
    )
    yield "safetensors: a header of spaces", file(b"{" + b" " * (10**7))
    yield "safetensors: a deep header", file(b'{"a":' + b"[" * 10**6)
    yield "safetensors: a deep header of tables", file(b'{"a":' * 10**6)
    yield "safetensors: no JSON", file(b"{not json}")
    yield "safetensors: no text", file(b"{\xff\xfe}")
    yield "safetensors: no tensors", file({})
    yield "safetensors: only metadata", file({"__metadata__": {"a": "b"}}, b"")
    yield "safetensors: metadata of tables", file(GOOD | {"__metadata__": {"a": {"b": "c"}}})
    yield "safetensors: metadata that is a list", file(GOOD | {"__metadata__": []})
    yield "safetensors: our metadata deep", file(GOOD | {"__metadata__": {"oneclip": "[" * 10**6}})
    yield "safetensors: facts that are none", file({"w": None})
    yield "safetensors: facts that are a list", file({"w": [1, 2]})
    for missing in ("dtype", "shape", "data_offsets"):
        yield f"safetensors: no {missing}", file({"w": {k: v for k, v in GOOD["w"].items() if k != missing}})
    for dtype in ("F31", "O", "", None, [], 32, "F64", "F16"):
        yield f"safetensors: numbers of {dtype!r}", one(dtype=dtype)
    for shape in (
        [3, 2],
        [-2, -2],
        [2.0, 2.0],
        ["2", "2"],
        [True, 4],
        [2**63],
        [2**62, 4],
        [1] * 10**5,
        "22",
        {},
        None,
    ):
        yield f"safetensors: shape {str(shape)[:30]}", one(shape=shape)
    for offsets in (
        [0, 15],
        [0, 17],
        [16, 0],
        [-16, 0],
        [1, 17],
        [0],
        [0, 16, 32],
        [0.0, 16.0],
        ["0", "16"],
        None,
        [0, 2**64],
    ):
        yield f"safetensors: offsets {offsets}", one(data_offsets=offsets)
    both = {"a": GOOD["w"], "b": GOOD["w"]}
    yield "safetensors: tensors that overlap", file(both)
    behind = {"a": GOOD["w"], "b": {"dtype": "F32", "shape": [1], "data_offsets": [20, 24]}}
    yield "safetensors: a gap", file(behind, bytes(24))
    yield "safetensors: too many numbers", file(GOOD, bytes(17))
    yield "safetensors: too few numbers", file(GOOD, bytes(15))
    yield (
        "safetensors: a table in 8 bits without scales",
        file(
            {
                "token_embedding.weight": {"dtype": "I8", "shape": [4, 2], "data_offsets": [0, 8]},
                "x.token_embedding.scale": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
            }
        ),
    )


def arrays() -> Iterator[tuple[str, Writer]]:
    """Iterate over hostile NumPy archives."""

    def npz(data: bytes, name: str = "a.npy", compression: int = zipfile.ZIP_STORED) -> Writer:
        def write(folder: Path) -> Path:
            with zipfile.ZipFile(folder / "m.npz", "w", compression) as file:
                file.writestr(name, data)
            return folder / "m.npz"

        return write

    def header(text: str, data: bytes = bytes(32), version: int = 1) -> Writer:
        content = text.encode() + b"\n"
        length = struct.pack("<H" if version == 1 else "<I", len(content))
        return npz(b"\x93NUMPY" + bytes([version, 0]) + length + content + data)

    def objects(folder: Path) -> Path:
        from hostile import Gadget

        np.savez(folder / "m.npz", a=np.array([Gadget()], dtype=object))
        return folder / "m.npz"

    yield "npz: objects", objects
    yield "npz: no array", npz(b"hello")
    yield "npz: an empty one", npz(b"")
    yield "npz: a bomb", npz(np.lib.format.magic(1, 0) + bytes(10**8), compression=zipfile.ZIP_DEFLATED)
    for what in (
        "{'descr': '|O', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '>f8', 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '<U8', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (5,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-4,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1," * 100 + ")}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 4}",
        "{'descr': '<f8', 'fortran_order': False}",
        "{'descr': __import__('os').system('touch ran'), 'fortran_order': False, 'shape': (4,)}",
        "(" * 9000,
        "[" * 9000,
        "x" * 9000,
    ):
        yield f"npz: {what[:80]}", header(what)
    yield "npz: a long header", header(" " * 10**6, version=2)
    yield "npz: an unknown version", header("{}", version=9)


def indices() -> Iterator[tuple[str, Writer]]:
    """Iterate over hostile indices of shards."""

    def index(weight_map: Any, **files: Any) -> Writer:
        def write(folder: Path) -> Path:
            (folder / "inner").mkdir()
            for name, content in files.items():
                save_file(content, folder / f"{name}.safetensors")
            save_file({"w": torch.ones(1)}, folder.parent / "outside.safetensors")
            content = (
                weight_map
                if isinstance(weight_map, bytes)
                else json.dumps({"weight_map": weight_map}).encode()
            )
            return written(folder / "inner" / "model.safetensors.index.json", content)

        return write

    outside = ("../a.safetensors", "../../outside.safetensors", "/etc/passwd.bin", "a/../../b.bin")
    for name in (
        *outside,
        "..",
        "",
        ".",
        "a\0.bin",
        "C:\\a.bin",
        "a" * 300 + ".bin",
        "~/a.bin",
        "a.txt",
        "-",
    ):
        yield f"index: a shard named {name[:30]!r}", index({"w": name}, a={"w": torch.ones(1)})
    yield "index: itself", index({"w": "model.safetensors.index.json"})
    yield "index: a shard that is missing", index({"w": "model-00001-of-00001.safetensors"})
    yield "index: of numbers", index({"w": 3})
    yield "index: a list", index(["a.safetensors"])
    yield "index: empty", index({})
    yield "index: no map", index(b"{}")
    yield "index: deep", index(b'{"weight_map":' + b"[" * 10**6)
    yield "index: large", index(b'{"weight_map": "' + b"x" * 10**7 + b'"}')
    yield "index: a thousand and one shards", index({f"w{n}": f"s{n}.bin" for n in range(1001)})

    def next_to(weight_map: Mapping[str, str], **files: Mapping[str, torch.Tensor]) -> Writer:
        def write(folder: Path) -> Path:
            for name, content in files.items():
                save_file(dict(content), folder / f"{name}.safetensors")
            text = json.dumps({"weight_map": weight_map}).encode()
            return written(folder / "model.safetensors.index.json", text)

        return write

    w, v = {"w": torch.ones(1)}, {"v": torch.ones(1)}
    yield "index: a tensor in no shard", next_to({"w": "a.safetensors", "x": "a.safetensors"}, a=w)
    yield "index: a tensor in another shard", next_to({"w": "b.safetensors", "v": "a.safetensors"}, a=w, b=v)
    yield "index: a tensor in two shards", next_to({"w": "a.safetensors", "v": "b.safetensors"}, a=w, b=w | v)

    def looped(folder: Path) -> Path:
        os.symlink("a.safetensors", folder / "a.safetensors")
        return next_to({"w": "a.safetensors"})(folder)

    yield "index: a link to itself", looped


def _sparse(path: Path, length: int) -> Path:
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{")
        file.truncate(8 + length)
    return path
