"""Read files that `torch.save` wrote before version 1.6 as data: pickles, followed by raw storages.

The file has five pickles: a magic number, a version, facts about the machine, the content, and the keys of the
storages. Then comes each storage: its length (8 bytes) and its numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.readers import pickle_reader, tensor_records
from oneclip.checkpoint.readers.pickle_reader import PickleError
from oneclip.checkpoint.readers.read_errors import MalformedFile, as_checkpoint_error
from oneclip.checkpoint.readers.tensor_records import StorageRef, TensorRef

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_PICKLES = 5


class LegacyTorchFile:
    """File in the format before PyTorch 1.6.

    Args:
        path: of the file.

    Raises:
        CheckpointError: if it is damaged, or in another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._types: dict[str, torch.dtype] = {}
        with as_checkpoint_error(path):
            with path.open("rb") as file:
                start = file.read(pickle_reader.MAX_PICKLE_BYTES)
            parts, end = pickle_reader.read_pickles(
                start, _PICKLES, tensor_records.find_global_or_plain_type, self._storage_of
            )
            magic, version, machine, self.content, keys = parts
            if magic != MAGIC:
                raise MalformedFile("it is a pickle, but not one that PyTorch wrote")
            if version != VERSION:
                raise MalformedFile(
                    f"it has version {str(version)[:20]} of PyTorch's format; expected {VERSION}"
                )
            if isinstance(machine, Mapping) and machine.get("little_endian") is False:
                raise MalformedFile(
                    "it was written on a big-endian machine; save it again on a little-endian one"
                )
            self._locations = self._find_storages(keys, end)

    def tensors(self, refs: Mapping[str, TensorRef], values: bool = True) -> dict[str, Tensor]:
        """Read tensors, as `TorchArchive.tensors` does."""
        with as_checkpoint_error(self.path):
            stored_bytes = {ref.storage.key: self._stored_bytes(ref.storage) for ref in refs.values()}
            tensor_records.check_shared(refs, stored_bytes)
            if not values:
                return {name: ref.to_meta(stored_bytes[ref.storage.key]) for name, ref in refs.items()}
            data: dict[str, Tensor] = {}
            for ref in refs.values():
                if ref.storage.key not in data:
                    data[ref.storage.key] = self._read_storage(ref.storage.key)
            return {name: ref.view(data[ref.storage.key]) for name, ref in refs.items()}

    def _storage_of(self, description: Any) -> StorageRef:
        """Read `("storage", type, key, device, count, view)`; all tensors of a storage must have the same dtype."""
        if isinstance(description, tuple) and len(description) > 5 and description[5] is not None:
            raise PickleError("it describes a storage as a part of another, which only very old files do")
        found = tensor_records.parse_storage(description)
        if self._types.setdefault(found.key, found.dtype) != found.dtype:
            raise PickleError(f"storage {found.key} has two dtypes")
        return found

    def _find_storages(self, keys: Any, at: int) -> dict[str, tuple[int, int]]:
        """Find the offset and the size in bytes of each storage."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise PickleError("its list of storages is not valid")
        locations: dict[str, tuple[int, int]] = {}
        total = self.path.stat().st_size
        with self.path.open("rb") as file:
            for key in keys:
                if key in locations or key not in self._types:
                    raise PickleError(f"storage {key[:40]} is listed twice, or has no tensor")
                file.seek(at)
                length = file.read(8)
                if len(length) < 8:
                    raise MalformedFile("it is truncated: storages are missing at its end")
                size = struct.unpack("<Q", length)[0] * self._types[key].itemsize
                if size > total - at - 8:
                    raise MalformedFile(
                        f"it is truncated: storage {key[:40]} is longer than the rest of the file"
                    )
                locations[key] = at + 8, size
                at += 8 + size
        return locations

    def _stored_bytes(self, storage: StorageRef) -> int:
        """Return the size of a storage; it must be at least what the tensors need."""
        size = self._locations.get(storage.key, (0, -1))[1]
        if size < 0:
            raise PickleError(f"storage {storage.key} is missing")
        if storage.bytes > size:
            raise PickleError(f"storage {storage.key} has {size:,} bytes; expected {storage.bytes:,}")
        return size

    def _read_storage(self, key: str) -> Tensor:
        offset, size = self._locations[key]
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        content = bytearray(size)
        with self.path.open("rb") as file:
            file.seek(offset)
            if file.readinto(content) < size:
                raise MalformedFile("it is truncated: storages are missing at its end")
        return torch.frombuffer(content, dtype=torch.uint8)
