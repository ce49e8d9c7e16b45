"""What `torch.save` wrote before version 1.6 to tensors: pickles, and storages behind them, opened as data.

The file is: a number by which it is known, a version, facts about the machine, the content, the keys of the
storages (each a pickle), then each storage as its length (8 bytes) and its numbers.
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
from oneclip.checkpoint.readers.read_errors import Unsound, explained
from oneclip.checkpoint.readers.tensor_records import StorageRef, TensorRef

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
_PICKLES = 5


class Legacy:
    """A file of the old form.

    Args:
        path: of the file.

    Raises:
        CheckpointError: if it is damaged, or no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._types: dict[str, torch.dtype] = {}
        with explained(path):
            with path.open("rb") as file:
                start = file.read(pickle_reader.LARGEST)
            parts, end = pickle_reader.read_pickles(
                start, _PICKLES, tensor_records.lookup_with_plain_types, self._storage_of
            )
            magic, version, machine, self.content, keys = parts
            if magic != MAGIC:
                raise Unsound("it is a pickle, but none that PyTorch wrote")
            if version != VERSION:
                raise Unsound(
                    f"it is of version {str(version)[:20]} of PyTorch's files, and 1001 was expected"
                )
            if isinstance(machine, Mapping) and machine.get("little_endian") is False:
                raise Unsound("it was written on a big-endian machine; save it again on a usual one")
            self._places = self._find(keys, end)

    def tensors(self, described: Mapping[str, TensorRef], values: bool = True) -> dict[str, Tensor]:
        """Read tensors, as `Archive.tensors` does."""
        with explained(self.path):
            held = {ref.storage.key: self._held(ref.storage) for ref in described.values()}
            tensor_records.check_shared(described, held)
            if not values:
                return {name: ref.blank(held[ref.storage.key]) for name, ref in described.items()}
            data: dict[str, Tensor] = {}
            for ref in described.values():
                if ref.storage.key not in data:
                    data[ref.storage.key] = self._bytes(ref.storage.key)
            return {name: ref.view(data[ref.storage.key]) for name, ref in described.items()}

    def _storage_of(self, description: Any) -> StorageRef:
        """`("storage", type, key, device, count, view)`; a key has one type of numbers."""
        if isinstance(description, tuple) and len(description) > 5 and description[5] is not None:
            raise PickleError("it describes a storage as a part of another, as only very old files do")
        found = tensor_records.storage(description)
        if self._types.setdefault(found.key, found.dtype) != found.dtype:
            raise PickleError(f"storage {found.key} has two types of numbers")
        return found

    def _find(self, keys: Any, at: int) -> dict[str, tuple[int, int]]:
        """Where each storage begins, and how many bytes it has."""
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise PickleError("its list of storages is none")
        places: dict[str, tuple[int, int]] = {}
        total = self.path.stat().st_size
        with self.path.open("rb") as file:
            for key in keys:
                if key in places or key not in self._types:
                    raise PickleError(f"storage {key[:40]} comes twice, or belongs to no tensor")
                file.seek(at)
                length = file.read(8)
                if len(length) < 8:
                    raise Unsound("it is truncated: storages are missing at its end")
                size = struct.unpack("<Q", length)[0] * self._types[key].itemsize
                if size > total - at - 8:
                    raise Unsound(f"it is truncated: storage {key[:40]} is longer than the rest of the file")
                places[key] = at + 8, size
                at += 8 + size
        return places

    def _held(self, storage: StorageRef) -> int:
        """How many bytes a storage has; those that it says it has must be among them."""
        held = self._places.get(storage.key, (0, -1))[1]
        if held < 0:
            raise PickleError(f"storage {storage.key} is not in it")
        if storage.bytes > held:
            raise PickleError(
                f"storage {storage.key} has {held:,} bytes, and {storage.bytes:,} are asked for"
            )
        return held

    def _bytes(self, key: str) -> Tensor:
        place, size = self._places[key]
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        content = bytearray(size)
        with self.path.open("rb") as file:
            file.seek(place)
            if file.readinto(content) < size:
                raise Unsound("it is truncated: storages are missing at its end")
        return torch.frombuffer(content, dtype=torch.uint8)
