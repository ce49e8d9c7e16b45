"""Read checkpoints of torch.distributed.checkpoint without executing anything in them.

It is a folder in the format of torch.distributed.checkpoint: a table of contents (`.metadata`, a pickle), files in
which the pieces of tensors stand one behind the other, each as `torch.save` writes it; and `training.json` with all
that is no tensor.
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
from torch.distributed.checkpoint import metadata as tables
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.planner import LoadItemType
from torch.futures import Future

from oneclip.checkpoint.readers.pickle_reader import LARGEST, STATE, Key, Name, Record, read_pickle
from oneclip.checkpoint.readers.read_errors import Unsound, explained
from oneclip.checkpoint.readers.tensor_records import MOST_AXES, are_sizes, lookup_with_plain_types
from oneclip.checkpoint.readers.torch_zip import Archive
from oneclip.checkpoint.resolve.locations import TRAINING, TRAINING_TABLE

TABLE = TRAINING_TABLE
NOT_PARTS = ("optimizer",)  # tensors of a training that are those of no model

_TABLES = tables.__name__
_STORED, _CHUNK, _PROPERTIES = (
    f"{_TABLES}.{kind.__name__}"
    for kind in (tables.TensorStorageMetadata, tables.ChunkStorageMetadata, tables.TensorProperties)
)
_INDEX, _TABLE = f"{_TABLES}.{tables.MetadataIndex.__name__}", f"{_TABLES}.{tables.Metadata.__name__}"
_INFO = f"{_StorageInfo.__module__}.{_StorageInfo.__name__}"
_PATHS = {f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")}
_OTHERS = {  # of which nothing is needed
    "torch.serialization._get_layout",
    *(
        f"{_TABLES}.{kind.__name__}"
        for kind in (tables.StorageMeta, tables.BytesStorageMetadata, tables._MEM_FORMAT_ENCODING)
    ),
}
_RECORDS = {_STORED, _CHUNK, _PROPERTIES, _TABLE, _INFO, *_PATHS, *_OTHERS}


@dataclass(frozen=True)
class Piece:
    """A part of a tensor, and where it is stored.

    Attributes:
        begin, shape: of the part, in the tensor.
        file: in the folder.
        offset, length: bytes.
    """

    begin: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint, as its table of contents describes it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]


class Table:
    """The table of contents of a checkpoint.

    Args:
        folder: of the checkpoint.

    Attributes:
        tensors: by their names in the checkpoint, such as `state_dict.visual.proj`.
        values: names of what is no tensor, such as a setting of an optimizer.

    Raises:
        CheckpointError: if it is missing, damaged, or asks for anything but what such tables consist of.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with explained(folder):
            contents, self._places = _read_table(folder / TABLE)
            self.tensors = dict(self._described(contents))
            self.values = [name for name, kind in contents.items() if not _is(kind, _STORED)]
            self._require_bytes()

    def under(self, part: str) -> dict[str, Stored]:
        """The tensors of a part, such as `state_dict`, by their names in it."""
        prefix = f"{part}."
        return {
            name.removeprefix(prefix): kind for name, kind in self.tensors.items() if name.startswith(prefix)
        }

    def parts(self) -> list[str]:
        """The parts that could be of a model."""
        found = dict.fromkeys(name.partition(".")[0] for name in self.tensors)
        return [part for part in found if part not in NOT_PARTS]

    def files(self) -> list[Path]:
        """All that a checkpoint consists of."""
        names = sorted({piece.file for stored in self.tensors.values() for piece in stored.pieces})
        return [self.folder / name for name in (*names, TABLE, TRAINING)]

    def read(self, part: str, values: bool = True) -> dict[str, Tensor]:
        """The tensors of a part, whole, on the CPU; without `values`, on the meta device.

        Raises:
            CheckpointError: if the files are damaged.
        """
        with explained(self.folder):
            return {name: self._whole(stored, values) for name, stored in self.under(part).items()}

    def _whole(self, stored: Stored, values: bool) -> Tensor:
        if not values:
            return torch.empty(stored.shape, dtype=stored.dtype, device="meta")
        whole = torch.zeros(stored.shape, dtype=stored.dtype)
        for piece in stored.pieces:
            place = tuple(slice(b, b + n) for b, n in zip(piece.begin, piece.shape, strict=True))
            whole[place] = self._read_piece(piece, stored.dtype)
        return whole

    def piece(self, name: str, begin: tuple[int, ...]) -> Tensor:
        """A stored piece of a tensor, on the CPU.

        Raises:
            CheckpointError: if there is none that begins there, or the file is damaged.
        """
        with explained(self.folder):
            stored = self.tensors[name]
            for piece in stored.pieces:
                if piece.begin == begin:
                    return self._read_piece(piece, stored.dtype)
            raise Unsound(f"no piece of {name[:80]} begins at {begin}")

    def value(self, name: str) -> Any:
        """What is stored by a name, of plain types.

        Raises:
            CheckpointError: if it is damaged, or of other types.
        """
        with explained(self.folder):
            return self._read(*self._place(name, None))

    def metadata(self) -> tables.Metadata:
        """The table as torch.distributed.checkpoint has it."""
        state: dict[str, Any] = {name: tables.BytesStorageMetadata() for name in self.values}
        storage: dict[tables.MetadataIndex, Any] = {}
        for name, stored in self.tensors.items():
            chunks = [
                tables.ChunkStorageMetadata(torch.Size(piece.begin), torch.Size(piece.shape))
                for piece in stored.pieces
            ]
            properties = tables.TensorProperties(stored.dtype)
            state[name] = tables.TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
        for name, begin in self._places:
            storage[tables.MetadataIndex(name, begin)] = _StorageInfo(*self._place(name, begin))
        return tables.Metadata(state, storage_data=storage)

    def _read_piece(self, piece: Piece, dtype: torch.dtype) -> Tensor:
        found = self._read(piece.file, piece.offset, piece.length)
        if not isinstance(found, Tensor) or tuple(found.shape) != piece.shape or found.dtype != dtype:
            raise Unsound(f"{piece.file} holds something else than {TABLE} says")
        return found

    def _read(self, name: str, offset: int, length: int) -> Any:
        """What `torch.save` wrote to a part of a file."""
        path = self.folder / name
        with path.open("rb") as file:
            if offset + length > file.seek(0, io.SEEK_END):
                raise Unsound(f"{name} is truncated: it has {file.tell():,} bytes")
            file.seek(offset)
            part = io.BytesIO(file.read(length))
        with Archive(path, part) as archive:
            return archive.whole()

    def _described(self, contents: Mapping[str, Any]) -> Iterator[tuple[str, Stored]]:
        for name, kind in contents.items():
            if not _is(kind, _STORED):
                continue
            shape, chunks = _sizes(kind.attributes.get("size")), kind.attributes.get("chunks")
            if not isinstance(chunks, list) or not all(_is(chunk, _CHUNK) for chunk in chunks):
                raise Unsound(f"{name[:80]} does not consist of the pieces that {TABLE} lists")
            pieces = tuple(self._piece(name, chunk) for chunk in chunks)
            fit = all(_lies_in(piece, shape) for piece in pieces)
            if not fit or sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
                raise Unsound(f"{name[:80]} does not consist of the pieces that {TABLE} lists")
            yield name, Stored(shape, _dtype(kind.attributes.get("properties")), pieces)

    def _piece(self, name: str, chunk: Record) -> Piece:
        begin, shape = (_sizes(chunk.attributes.get(key)) for key in ("offsets", "sizes"))
        return Piece(begin, shape, *self._place(name, begin))

    def _place(self, name: str, begin: tuple[int, ...] | None) -> tuple[str, int, int]:
        """The file, the offset and the length of what is stored by a name, or of a piece of it."""
        info = self._places.get((name, begin))
        if info is None:
            raise Unsound(f"{TABLE} does not say where {name[:80]} lies")
        file, first, length = info.get("relative_path"), info.get("offset", -1), info.get("length", -1)
        if (
            not isinstance(file, str)
            or not file
            or Path(file).name != file
            or info.get("transform_descriptors")
        ):
            raise Unsound(f"{name[:80]} is said to lie elsewhere, or in a form that is not known")
        if not are_sizes((first, length)):
            raise Unsound(f"{name[:80]} has no place in {file[:80]}")
        return file, first, length

    def _require_bytes(self) -> None:
        """See that the files are as long as what is said to lie in them, before memory is taken for it."""
        pieces = [piece for stored in self.tensors.values() for piece in stored.pieces]
        sizes = {name: (self.folder / name).stat().st_size for name in {piece.file for piece in pieces}}
        for piece in pieces:
            if piece.offset + piece.length > sizes[piece.file]:
                raise Unsound(f"{piece.file} is truncated: it has {sizes[piece.file]:,} bytes")
        needed = sum(math.prod(stored.shape) * stored.dtype.itemsize for stored in self.tensors.values())
        if max(needed, sum(piece.length for piece in pieces)) > sum(sizes.values()):
            raise Unsound(f"its {TABLE} lists {needed:,} bytes of tensors, more than its files have")


def _lies_in(piece: Piece, shape: tuple[int, ...]) -> bool:
    if not len(piece.begin) == len(piece.shape) == len(shape):
        return False
    ends = zip(piece.begin, piece.shape, shape, strict=True)
    return all(begin >= 0 and count >= 0 and begin + count <= whole for begin, count, whole in ends)


class Reader(FileSystemReader):
    """Gives torch.distributed.checkpoint what is in a checkpoint, all of it read as data.

    Args:
        table: of the checkpoint.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table.folder)
        self._table = table

    def read_metadata(self, *args: Any, **options: Any) -> tables.Metadata:
        """The table, with what torch notes in it."""
        metadata = self._table.metadata()
        metadata.storage_meta = tables.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Give a planner the pieces that it asks for."""
        for item in plan.items:
            name, begin = item.storage_index.fqn, item.storage_index.offset
            if item.type == LoadItemType.BYTE_IO:
                plain = io.BytesIO()
                torch.save(self._table.value(name), plain)  # torch unpickles this, not what the file holds
                plain.seek(0)
                planner.load_bytes(item, plain)
                continue
            piece = self._table.piece(name, tuple(begin or ()))
            part = narrow_tensor_by_index(piece, item.storage_offsets, item.lengths)
            target = planner.resolve_tensor(item).detach()
            target.copy_(part)
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _lookup(module: str, name: str) -> Name:
    """What a table of contents consists of: records, tuples, types of numbers; the rest is an error."""
    text = f"{module}.{name}"
    if text == _INDEX:
        return Name(text, lambda arguments: Key(text))
    if text in _RECORDS:
        return Name(text, lambda arguments: Record(text))
    if text == "torch.Size" or isinstance(
        getattr(torch, name, None) if module == "torch" else None, torch.dtype
    ):
        return lookup_with_plain_types(module, name)
    raise Unsound(f"its {TABLE} asks for {text}, which no table of contents needs"[:200])


def _outside(description: Any) -> Any:
    raise Unsound(f"its {TABLE} refers to something outside of it")


_Places: TypeAlias = dict[tuple[str, tuple[int, ...] | None], dict[str, Any]]


def _read_table(path: Path) -> tuple[dict[str, Any], _Places]:
    """What a checkpoint holds by its names, and where each piece of it lies."""
    with path.open("rb") as file:
        table = read_pickle(file.read(LARGEST + 1), _lookup, _outside)
    if not _is(table, _TABLE):
        raise Unsound(f"its {TABLE} holds no table of contents")
    contents, where = (table.attributes.get(key) for key in ("state_dict_metadata", "storage_data"))
    if not isinstance(contents, dict) or not isinstance(where, dict):
        raise Unsound(f"its {TABLE} is no table of tensors")
    places: _Places = {}
    for index, info in where.items():
        name = index.attributes.get("fqn") if _is(index, _INDEX) else None
        if not isinstance(name, str) or not _is(info, _INFO):
            raise Unsound(f"its {TABLE} is no table of tensors")
        begin = index.attributes.get("offset")
        places[name, None if begin is None else _sizes(begin)] = info.attributes
    return {str(name): kind for name, kind in contents.items()}, places


def _is(value: Any, kind: str) -> TypeGuard[Record]:
    return isinstance(value, Record) and value.kind == kind


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not are_sizes(value) or len(value) > MOST_AXES:
        raise Unsound(f"its {TABLE} gives {str(value)[:60]} as the sizes of a tensor")
    return value


def _dtype(properties: Any) -> torch.dtype:
    """The type of numbers that a tensor's properties begin with."""
    state = properties.attributes.get(STATE) if _is(properties, _PROPERTIES) else None
    first = state[0] if isinstance(state, tuple) and state else None
    dtype = getattr(torch, first.text.removeprefix("torch."), None) if isinstance(first, Name) else None
    if not isinstance(dtype, torch.dtype):
        raise Unsound(f"its {TABLE} does not say of what type a tensor's numbers are")
    return dtype
