"""A PyTorch archive to tensors: a zip of one pickle and of raw storages, opened as data.

TorchScript archives, as OpenAI published CLIP, and what `torch.save` writes are both of this form. The code
that a TorchScript archive carries is never run: of its text, only the lists of each class's parameters and
buffers are read.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint import pickles, tensors
from oneclip.checkpoint.pickles import PickleError, Record
from oneclip.checkpoint.tensors import StorageRef, TensorRef
from oneclip.errors import CheckpointError

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI keeps as buffers
MOST_ATTRIBUTES, DEEPEST = 200_000, 64
LARGEST_RATIO = 32  # of unpacked to packed bytes in a whole archive; weights hardly compress at all

_CLASS = re.compile(
    r"^class (?P<name>\w+)\(Module\):\n  __parameters__ = \[(?P<parameters>[^\]\n]*)\]\n"
    r"  __buffers__ = \[(?P<buffers>[^\]\n]*)\]",
    re.MULTILINE,
)


class Archive:
    """An archive, open for reading.

    Args:
        path: of the file.

    Raises:
        CheckpointError: if it is damaged or is no such archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._storages: dict[str, Tensor] = {}
        with self._explained():
            self._zip = zipfile.ZipFile(self.path)
        try:
            self._entries = {entry.filename: entry for entry in self._zip.infolist()}
            self._check()
            self.root = self._find_root()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def is_script(self) -> bool:
        """Whether it is a TorchScript archive rather than what `torch.save` writes."""
        prefix = self.root + "code/"
        return self.root + "constants.pkl" in self._entries or any(
            name.startswith(prefix) for name in self._entries
        )

    def content(self) -> Any:
        """What the archive holds, with a `TensorRef` for each tensor; no storage is read."""
        known = tensors.lookup if self.is_script else tensors.lookup_with_plain_types
        with self._explained():
            return pickles.read_pickle(bytes(self._read(self.root + "data.pkl")), known, tensors.storage)

    def tensor(self, described: TensorRef) -> Tensor:
        """Read a tensor; tensors of one storage share their memory."""
        with self._explained():
            numbers = self._storage(described.storage).view(described.storage.dtype)
            return numbers.as_strided(described.shape, described.stride, described.offset)

    def state_dict(self, module: Record) -> dict[str, Tensor]:
        """The parameters and buffers of a module, by their dotted names."""
        with self._explained():
            return {name: self.tensor(found) for name, found in self._walk(module, self._classes())}

    def source_text(self) -> Iterator[tuple[str, str]]:
        """The files of code in the archive, as module names and text."""
        prefix = self.root + "code/"
        for name in self._entries:
            if name.startswith(prefix) and name.endswith(".py"):
                text = self._read(name).decode("utf-8", "replace")
                yield name[len(prefix) : -len(".py")].replace("/", "."), text

    def _walk(
        self,
        module: Record,
        classes: dict[str, set[str]],
        prefix: str = "",
        depth: int = 0,
        seen: list[int] | None = None,
    ) -> Iterator[tuple[str, TensorRef]]:
        seen = [0] if seen is None else seen
        seen[0] += 1 + len(module.attributes)
        if seen[0] > MOST_ATTRIBUTES or depth > DEEPEST:
            raise PickleError("its modules are nested without end")
        known = classes.get(module.kind)
        for name, value in module.attributes.items():
            if isinstance(value, TensorRef) and (known is None or name in known):
                yield prefix + name, value
        for name, value in module.attributes.items():
            if isinstance(value, Record):
                yield from self._walk(value, classes, f"{prefix}{name}.", depth + 1, seen)

    def _classes(self) -> dict[str, set[str]]:
        """Names of parameters and buffers by class; other attributes that are tensors are no part of a
        state."""
        classes: dict[str, set[str]] = {}
        for module, text in self.source_text():
            for found in _CLASS.finditer(text):
                classes[f"{module}.{found['name']}"] = {
                    name.strip(' "')
                    for names in found.group("parameters", "buffers")
                    for name in names.split(",")
                }
        return classes

    def _storage(self, described: StorageRef) -> Tensor:
        """The bytes of a storage."""
        size = described.count * described.dtype.itemsize
        if described.key not in self._storages:
            content = self._read_storage(described.key, size)
            self._storages[described.key] = (
                torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            )
        data = self._storages[described.key]
        if size > data.numel():
            raise PickleError(
                f"storage {described.key} has {data.numel():,} bytes, and {size:,} are asked for"
            )
        return data[:size]

    def _read_storage(self, key: str, size: int) -> bytearray:
        for folder in ("data/", "constants/"):
            name = self.root + folder + key
            if name in self._entries:
                held = self._entries[name].file_size
                if size > held:
                    raise PickleError(f"storage {key} has {held:,} bytes, and {size:,} are asked for")
                return self._read(name)
        raise PickleError(f"storage {key} is not in it")

    def _read(self, name: str) -> bytearray:
        """An entry; its checksum is compared."""
        entry = self._entries.get(name)
        if entry is None:
            raise PickleError(f"it has no {name.removeprefix(self.root)}")
        data = bytearray(entry.file_size)
        view, filled = memoryview(data), 0
        with self._zip.open(entry) as file:
            while filled < len(data) and (chunk := file.read(len(data) - filled)):
                view[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        if filled < len(data):
            raise PickleError(f"{name.removeprefix(self.root)} ends after {filled:,} of {len(data):,} bytes")
        return data

    def _check(self) -> None:
        """Look for what no honest archive has, before anything is read."""
        total = self.path.stat().st_size
        entries = self._zip.infolist()
        if len(entries) != len(self._entries):
            self._fail("it holds two entries of the same name")
        if sum(entry.compress_size for entry in entries) > total:
            self._fail(
                "its entries overlap, or are longer than the file: it is truncated, or made to do harm"
            )
        unpacked = sum(entry.file_size for entry in entries)
        if unpacked > LARGEST_RATIO * total + 2**20:
            self._fail(f"it would unpack to {unpacked:,} bytes from {total:,}, which weights do not")
        for entry in entries:
            if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
                self._fail(f"the sizes of {entry.filename} contradict each other")

    def _find_root(self) -> str:
        roots = [
            name.removesuffix("data.pkl")
            for name in self._entries
            if re.fullmatch(r"([^/]+/)?data\.pkl", name)
        ]
        if len(roots) != 1:
            self._fail("it is a zip file, but holds no model that PyTorch wrote (no data.pkl in its folder)")
        order = self._entries.get(roots[0] + "byteorder")
        if order is not None and bytes(self._read_first(order)) != b"little":
            self._fail("it was written on a big-endian machine; save it again on a usual one")
        return roots[0]

    def _read_first(self, entry: zipfile.ZipInfo) -> bytes:
        with self._explained(), self._zip.open(entry) as file:
            return file.read(16)

    def _fail(self, why: str) -> None:
        raise CheckpointError(f"{self.path} cannot be used: {why}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what goes wrong in reading into a CheckpointError that names the file."""
        try:
            yield
        except PickleError as error:
            raise CheckpointError(f"{self.path} cannot be used: {error}") from error
        except CheckpointError:
            raise
        except zipfile.BadZipFile as error:
            why = "truncated or damaged" if "not a zip file" in str(error) else f"damaged ({error})"
            size = self.path.stat().st_size
            raise CheckpointError(f"{self.path} is {why}; it has {size:,} bytes. Fetch it again") from error
        except (
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            LookupError,
            ArithmeticError,
            zlib.error,
        ) as error:
            raise CheckpointError(f"{self.path} cannot be used: it is damaged ({error})") from error
