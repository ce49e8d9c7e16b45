"""Read checkpoints of torch.distributed.checkpoint without executing anything in them.

Such a checkpoint is a folder. Its index (`.metadata`, a pickle) lists the pieces of each tensor. The pieces are stored
one after the other in data files, each as `torch.save` writes it. `training.json` has everything that is not a tensor.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import torch
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import FileSystemReader, LoadPlan, LoadPlanner
from torch.distributed.checkpoint import metadata as dcp_metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.planner import LoadItemType
from torch.futures import Future

from oneclip.checkpoint.readers.pickle_reader import (
    MAX_PICKLE_BYTES,
    STATE_KEY,
    AllowedGlobal,
    HashableRecord,
    Record,
    read_pickle,
)
from oneclip.checkpoint.readers.read_errors import MalformedFile, as_checkpoint_error
from oneclip.checkpoint.readers.tensor_records import MAX_DIMS, are_sizes, find_global_or_plain_type
from oneclip.checkpoint.readers.torch_zip import TorchArchive
from oneclip.checkpoint.resolve.locations import DCP_METADATA, TRAINING_FILE

TRAINING_ONLY_PARTS = ("optimizer",)  # their tensors do not belong to a model

# Names of the classes in the index.
_MODULE = dcp_metadata.__name__
_TENSOR, _CHUNK, _PROPERTIES, _METADATA, _PIECE_ID = (
    f"{_MODULE}.{name}"
    for name in (
        "TensorStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "Metadata",
        "MetadataIndex",
    )
)
_STORAGE_INFO = f"{_StorageInfo.__module__}.{_StorageInfo.__name__}"
_PATHS = {f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")}
_IGNORED = {
    "torch.serialization._get_layout",
    *(f"{_MODULE}.{name}" for name in ("StorageMeta", "BytesStorageMetadata", "_MEM_FORMAT_ENCODING")),
}
_RECORDS = {_TENSOR, _CHUNK, _PROPERTIES, _METADATA, _STORAGE_INFO, *_PATHS, *_IGNORED}

# Storage of each piece, by the name of its tensor and the offsets of the piece; the offsets of other values are None.
_StorageTable: TypeAlias = dict[tuple[str, tuple[int, ...] | None], dict[str, Any]]


@dataclass(frozen=True)
class TensorPiece:
    """Part of a tensor, and where it is stored.

    Attributes:
        begin, shape: of the part, in the tensor.
        file: name of the data file in the folder.
        offset, length: in the data file, in bytes.
    """

    begin: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int

    def fits_in(self, shape: tuple[int, ...]) -> bool:
        """Report whether the piece is inside a tensor of this shape."""
        if not len(self.begin) == len(self.shape) == len(shape):
            return False
        dims = zip(self.begin, self.shape, shape, strict=True)
        return all(begin >= 0 and size >= 0 and begin + size <= whole for begin, size, whole in dims)


@dataclass(frozen=True)
class StoredTensor:
    """Description of a tensor in the index."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[TensorPiece, ...]


class DistributedCheckpoint:
    """Checkpoint of torch.distributed.checkpoint. Opening it reads only the index.

    Args:
        folder: of the checkpoint.

    Attributes:
        tensors: by their names in the checkpoint, such as `state_dict.visual.proj`.
        value_names: names of everything that is not a tensor, such as a setting of an optimizer.

    Raises:
        CheckpointError: if the index is missing or damaged, or refers to something that no index needs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with as_checkpoint_error(folder):
            entries, self._storage = _read_index(folder / DCP_METADATA)
            self.tensors = dict(self._stored_tensors(entries))
            self.value_names = [name for name, entry in entries.items() if not _is_record(entry, _TENSOR)]
            self._check_file_sizes()

    def tensors_in(self, part: str) -> dict[str, StoredTensor]:
        """Return the tensors of a part, such as `state_dict`, by their names in it."""
        prefix = f"{part}."
        return {
            name.removeprefix(prefix): stored
            for name, stored in self.tensors.items()
            if name.startswith(prefix)
        }

    def model_parts(self) -> list[str]:
        """List the parts that could be a model."""
        parts = dict.fromkeys(name.partition(".")[0] for name in self.tensors)
        return [part for part in parts if part not in TRAINING_ONLY_PARTS]

    def files(self) -> list[Path]:
        """List all files of the checkpoint."""
        names = sorted({piece.file for stored in self.tensors.values() for piece in stored.pieces})
        return [self.folder / name for name in (*names, DCP_METADATA, TRAINING_FILE)]

    def read_part(self, part: str, values: bool = True) -> dict[str, Tensor]:
        """Read the complete tensors of a part, on the CPU; without `values`, on the meta device.

        Raises:
            CheckpointError: if a file is damaged.
        """
        with as_checkpoint_error(self.folder):
            return {
                name: self._read_tensor(stored) if values else _meta_tensor(stored)
                for name, stored in self.tensors_in(part).items()
            }

    def read_piece(self, name: str, begin: tuple[int, ...]) -> Tensor:
        """Read one stored piece of a tensor, on the CPU.

        Raises:
            CheckpointError: if no piece begins there, or the file is damaged.
        """
        with as_checkpoint_error(self.folder):
            stored = self.tensors[name]
            for piece in stored.pieces:
                if piece.begin == begin:
                    return self._load_piece(piece, stored.dtype)
            raise MalformedFile(f"{name[:80]} has no piece that begins at {begin}")

    def read_value(self, name: str) -> Any:
        """Read a value that is not a tensor; it may contain only plain types.

        Raises:
            CheckpointError: if it is damaged, or has other types.
        """
        with as_checkpoint_error(self.folder):
            return self._load(*self._location(name, None))

    def torch_metadata(self) -> dcp_metadata.Metadata:
        """Return the index as a `Metadata` object of torch.distributed.checkpoint."""
        state: dict[str, Any] = {name: dcp_metadata.BytesStorageMetadata() for name in self.value_names}
        storage: dict[dcp_metadata.MetadataIndex, Any] = {}
        for name, stored in self.tensors.items():
            chunks = [
                dcp_metadata.ChunkStorageMetadata(torch.Size(piece.begin), torch.Size(piece.shape))
                for piece in stored.pieces
            ]
            properties = dcp_metadata.TensorProperties(stored.dtype)
            state[name] = dcp_metadata.TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
        for name, begin in self._storage:
            index = dcp_metadata.MetadataIndex(name, begin)
            storage[index] = _StorageInfo(*self._location(name, begin))
        return dcp_metadata.Metadata(state, storage_data=storage)

    def _stored_tensors(self, entries: Mapping[str, Any]) -> Iterator[tuple[str, StoredTensor]]:
        for name, entry in entries.items():
            if not _is_record(entry, _TENSOR):
                continue
            shape, chunks = _require_sizes(entry.attributes.get("size")), entry.attributes.get("chunks")
            wrong_pieces = f"the pieces of {name[:80]} in {DCP_METADATA} do not add up to the tensor"
            if not isinstance(chunks, list) or not all(_is_record(chunk, _CHUNK) for chunk in chunks):
                raise MalformedFile(wrong_pieces)
            pieces = tuple(self._tensor_piece(name, chunk) for chunk in chunks)
            fit = all(piece.fits_in(shape) for piece in pieces)
            if not fit or sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
                raise MalformedFile(wrong_pieces)
            yield name, StoredTensor(shape, _require_dtype(entry.attributes.get("properties")), pieces)

    def _tensor_piece(self, name: str, chunk: Record) -> TensorPiece:
        begin, shape = (_require_sizes(chunk.attributes.get(key)) for key in ("offsets", "sizes"))
        return TensorPiece(begin, shape, *self._location(name, begin))

    def _location(self, name: str, begin: tuple[int, ...] | None) -> tuple[str, int, int]:
        """Return file, offset and length of a value, or of the piece of a tensor that begins at `begin`."""
        info = self._storage.get((name, begin))
        if info is None:
            raise MalformedFile(f"{DCP_METADATA} does not say where {name[:80]} is stored")
        file, offset, length = info.get("relative_path"), info.get("offset", -1), info.get("length", -1)
        if (
            not isinstance(file, str)
            or not file
            or Path(file).name != file
            or info.get("transform_descriptors")
        ):
            raise MalformedFile(f"{name[:80]} is stored outside the folder, or in an unknown format")
        if not are_sizes((offset, length)):
            raise MalformedFile(f"{name[:80]} has an invalid offset or length in {file[:80]}")
        return file, offset, length

    def _check_file_sizes(self) -> None:
        """Compare the tensors of the index with the sizes of the files, before memory is allocated for them."""
        pieces = [piece for stored in self.tensors.values() for piece in stored.pieces]
        sizes = {name: (self.folder / name).stat().st_size for name in {piece.file for piece in pieces}}
        for piece in pieces:
            if piece.offset + piece.length > sizes[piece.file]:
                raise MalformedFile(f"{piece.file} is truncated: it has {sizes[piece.file]:,} bytes")
        needed = sum(math.prod(stored.shape) * stored.dtype.itemsize for stored in self.tensors.values())
        if max(needed, sum(piece.length for piece in pieces)) > sum(sizes.values()):
            raise MalformedFile(
                f"its {DCP_METADATA} lists {needed:,} bytes of tensors, more than its files have"
            )

    def _read_tensor(self, stored: StoredTensor) -> Tensor:
        whole = torch.zeros(stored.shape, dtype=stored.dtype)
        for piece in stored.pieces:
            region = tuple(slice(b, b + n) for b, n in zip(piece.begin, piece.shape, strict=True))
            whole[region] = self._load_piece(piece, stored.dtype)
        return whole

    def _load_piece(self, piece: TensorPiece, dtype: torch.dtype) -> Tensor:
        found = self._load(piece.file, piece.offset, piece.length)
        if not isinstance(found, Tensor) or tuple(found.shape) != piece.shape or found.dtype != dtype:
            raise MalformedFile(f"{piece.file} does not contain what {DCP_METADATA} describes")
        return found

    def _load(self, name: str, offset: int, length: int) -> Any:
        """Read what `torch.save` wrote to a part of a file."""
        path = self.folder / name
        with path.open("rb") as file:
            if offset + length > file.seek(0, io.SEEK_END):
                raise MalformedFile(f"{name} is truncated: it has {file.tell():,} bytes")
            file.seek(offset)
            part = io.BytesIO(file.read(length))
        with TorchArchive(path, part) as archive:
            return archive.load()


class DataOnlyReader(FileSystemReader):
    """Storage reader for torch.distributed.checkpoint that executes nothing of a checkpoint.

    Args:
        checkpoint: to read from.
    """

    def __init__(self, checkpoint: DistributedCheckpoint) -> None:
        super().__init__(checkpoint.folder)
        self._checkpoint = checkpoint

    def read_metadata(self, *args: Any, **options: Any) -> dcp_metadata.Metadata:
        """Return the index, with the load id of torch."""
        metadata = self._checkpoint.torch_metadata()
        metadata.storage_meta = dcp_metadata.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the pieces of a plan."""
        for item in plan.items:
            name, begin = item.storage_index.fqn, item.storage_index.offset
            if item.type == LoadItemType.BYTE_IO:
                plain = io.BytesIO()
                # torch unpickles these bytes, written here from plain values, and not those of the file
                torch.save(self._checkpoint.read_value(name), plain)
                plain.seek(0)
                planner.load_bytes(item, plain)
                continue
            piece = self._checkpoint.read_piece(name, tuple(begin or ()))
            part = narrow_tensor_by_index(piece, item.storage_offsets, item.lengths)
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


# Parsing of the index.


def _read_index(path: Path) -> tuple[dict[str, Any], _StorageTable]:
    """Read the entries of the index by name, and where each piece is stored."""
    with path.open("rb") as file:
        index = read_pickle(file.read(MAX_PICKLE_BYTES + 1), _find_global, _refuse_persistent_id)
    if not _is_record(index, _METADATA):
        raise MalformedFile(f"its {DCP_METADATA} is not the index of a checkpoint")
    entries, storage_data = (index.attributes.get(key) for key in ("state_dict_metadata", "storage_data"))
    if not isinstance(entries, dict) or not isinstance(storage_data, dict):
        raise MalformedFile(f"its {DCP_METADATA} is not a table of tensors")
    storage: _StorageTable = {}
    for piece, info in storage_data.items():
        name = piece.attributes.get("fqn") if _is_record(piece, _PIECE_ID) else None
        if not isinstance(name, str) or not _is_record(info, _STORAGE_INFO):
            raise MalformedFile(f"its {DCP_METADATA} is not a table of tensors")
        begin = piece.attributes.get("offset")
        storage[name, None if begin is None else _require_sizes(begin)] = info.attributes
    return {str(name): entry for name, entry in entries.items()}, storage


def _find_global(module: str, name: str) -> AllowedGlobal:
    """Return what a global of the index means: a record, a tuple or a dtype; any other is an error."""
    text = f"{module}.{name}"
    if text == _PIECE_ID:
        return AllowedGlobal(text, lambda arguments: HashableRecord(text))
    if text in _RECORDS:
        return AllowedGlobal(text, lambda arguments: Record(text))
    if text == "torch.Size" or isinstance(
        getattr(torch, name, None) if module == "torch" else None, torch.dtype
    ):
        return find_global_or_plain_type(module, name)
    raise MalformedFile(f"its {DCP_METADATA} refers to {text}, which no index needs"[:200])


def _refuse_persistent_id(description: Any) -> Any:
    raise MalformedFile(f"its {DCP_METADATA} refers to something outside itself")


def _is_record(value: Any, kind: str) -> TypeGuard[Record]:
    return isinstance(value, Record) and value.kind == kind


def _require_sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not are_sizes(value) or len(value) > MAX_DIMS:
        raise MalformedFile(f"its {DCP_METADATA} has {str(value)[:60]} as the sizes of a tensor")
    return value


def _require_dtype(properties: Any) -> torch.dtype:
    """Return the dtype, which is the first of a tensor's properties."""
    state = properties.attributes.get(STATE_KEY) if _is_record(properties, _PROPERTIES) else None
    first = state[0] if isinstance(state, tuple) and state else None
    dtype = (
        getattr(torch, first.text.removeprefix("torch."), None) if isinstance(first, AllowedGlobal) else None
    )
    if not isinstance(dtype, torch.dtype):
        raise MalformedFile(f"its {DCP_METADATA} has no valid dtype for a tensor")
    return dtype


def _meta_tensor(stored: StoredTensor) -> Tensor:
    return torch.empty(stored.shape, dtype=stored.dtype, device="meta")
