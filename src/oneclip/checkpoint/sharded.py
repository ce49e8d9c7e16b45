"""A checkpoint that several processes of a training wrote to the tensors in it; nothing of it is executed.

It is a folder in the format of torch.distributed.checkpoint: a table of contents (`.metadata`, a pickle), files in
which the pieces of tensors stand one behind the other, each as `torch.save` writes it; and `training.json` with all
that is no tensor.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint import metadata as tables
from torch.distributed.checkpoint.filesystem import _StorageInfo

from oneclip.checkpoint.damage import Unsound, explained
from oneclip.checkpoint.places import TRAINING, TRAINING_TABLE

TABLE = TRAINING_TABLE
NOT_PARTS = ("optimizer",)  # tensors of a training that are those of no model

_PATHS = {"PosixPath": PurePosixPath, "WindowsPath": PureWindowsPath}
_KNOWN: dict[tuple[str, str], Any] = {
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): _StorageInfo,
    **{(module, name): kind for module in ("pathlib", "pathlib._local") for name, kind in _PATHS.items()},
    **{
        (tables.__name__, kind.__name__): kind
        for kind in (
            tables.Metadata,
            tables.MetadataIndex,
            tables.StorageMeta,
            tables.TensorProperties,
            tables.TensorStorageMetadata,
            tables.ChunkStorageMetadata,
            tables.BytesStorageMetadata,
            tables._MEM_FORMAT_ENCODING,
        )
    },
}


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
        metadata: as torch.distributed.checkpoint has it.
        tensors: by their names in the checkpoint, such as `state_dict.visual.proj`.

    Raises:
        CheckpointError: if it is missing, damaged, or asks for anything but what such tables consist of.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with explained(folder):
            self.metadata = _read_table(folder / TABLE)
            self.tensors = dict(self._described())
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

    def _read_piece(self, piece: Piece, dtype: torch.dtype) -> Tensor:
        with (self.folder / piece.file).open("rb") as file:
            file.seek(piece.offset)
            found = _load(file.read(piece.length))
        if not isinstance(found, Tensor) or tuple(found.shape) != piece.shape or found.dtype != dtype:
            raise Unsound(f"{piece.file} holds something else than {TABLE} says")
        return found

    def _described(self) -> Iterator[tuple[str, Stored]]:
        contents, where = self.metadata.state_dict_metadata, self.metadata.storage_data
        if not isinstance(contents, dict) or not isinstance(where, dict):
            raise Unsound(f"its {TABLE} is no table of tensors")
        for name, kind in contents.items():
            if not isinstance(kind, tables.TensorStorageMetadata):
                continue
            shape = tuple(kind.size)
            pieces = tuple(self._piece(name, chunk, where) for chunk in kind.chunks)
            fit = all(_lies_in(piece, shape) for piece in pieces)
            if not fit or sum(math.prod(piece.shape) for piece in pieces) != math.prod(shape):
                raise Unsound(f"{str(name)[:80]} does not consist of the pieces that {TABLE} lists")
            yield str(name), Stored(shape, kind.properties.dtype, pieces)

    def _piece(self, name: str, chunk: Any, where: Mapping[Any, Any]) -> Piece:
        info = where[tables.MetadataIndex(name, chunk.offsets)]
        file, first, length = info.relative_path, info.offset, info.length
        if not isinstance(file, str) or Path(file).name != file or info.transform_descriptors:
            raise Unsound(f"{str(name)[:80]} is said to lie elsewhere, or in a form that is not known")
        if not isinstance(first, int) or not isinstance(length, int) or first < 0 or length < 0:
            raise Unsound(f"{str(name)[:80]} has no place in {file[:80]}")
        return Piece(tuple(chunk.offsets), tuple(chunk.sizes), file, first, length)

    def _require_bytes(self) -> None:
        """See that the files are as long as what is said to lie in them, before memory is taken for it."""
        pieces = [piece for stored in self.tensors.values() for piece in stored.pieces]
        sizes = {name: (self.folder / name).stat().st_size for name in {piece.file for piece in pieces}}
        for piece in pieces:
            if piece.offset + piece.length > sizes[piece.file]:
                raise Unsound(f"{piece.file} is truncated: it has {sizes[piece.file]:,} bytes")
        needed = sum(math.prod(stored.shape) * stored.dtype.itemsize for stored in self.tensors.values())
        if needed > sum(sizes.values()):
            raise Unsound(f"its {TABLE} lists {needed:,} bytes of tensors, more than its files have")


def _lies_in(piece: Piece, shape: tuple[int, ...]) -> bool:
    if not len(piece.begin) == len(piece.shape) == len(shape):
        return False
    ends = zip(piece.begin, piece.shape, shape, strict=True)
    return all(begin >= 0 and count >= 0 and begin + count <= whole for begin, count, whole in ends)


class Reader(FileSystemReader):
    """Gives torch.distributed.checkpoint a table of contents that was read as data.

    Args:
        table: of the checkpoint.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table.folder)
        self._table = table

    def read_metadata(self, *args: Any, **options: Any) -> tables.Metadata:
        """The table, with what torch notes in it."""
        metadata = self._table.metadata
        if metadata.storage_meta is None:
            metadata.storage_meta = tables.StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class Planner(DefaultLoadPlanner):
    """Takes what is no tensor, such as the settings of an optimizer, only if it is plain."""

    def load_bytes(self, read_item: Any, value: io.BytesIO) -> None:
        """Have torch unpickle what we wrote anew, not what the file holds."""
        plain = io.BytesIO()
        torch.save(torch.load(value, map_location="cpu", weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _Unpickler(pickle.Unpickler):
    """Makes nothing but tables of contents."""

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is None and module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            known = getattr(torch, name)
        if known is None:
            raise Unsound(f"its {TABLE} asks for {module}.{name}, which no table of contents needs"[:200])
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise Unsound(f"its {TABLE} refers to something outside of it")


def _read_table(path: Path) -> tables.Metadata:
    with path.open("rb") as file:
        table = _unpickled(file)
    if not isinstance(table, tables.Metadata):
        raise Unsound(f"its {TABLE} holds a {type(table).__name__}, no table of contents")
    return table


def _unpickled(file: IO[bytes]) -> Any:
    try:
        return _Unpickler(file).load()
    except (pickle.UnpicklingError, TypeError, AttributeError, ImportError) as error:
        raise Unsound(f"its {TABLE} is damaged ({str(error)[:200]})") from error


def _load(content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Unsound(f"it holds something else than tensors ({str(error)[:200]})") from error
