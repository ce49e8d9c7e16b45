"""Read the zip archives of PyTorch as data: a pickle and raw storages.

`torch.save` and TorchScript, in which OpenAI published CLIP, both write this format. The code in a TorchScript archive
is never run: only the lists of each class's parameters and buffers are read from its text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from oneclip.checkpoint.readers import pickle_reader, tensor_records
from oneclip.checkpoint.readers.pickle_reader import PickleError, Record
from oneclip.checkpoint.readers.read_errors import MalformedFile, as_checkpoint_error
from oneclip.checkpoint.readers.tensor_records import TensorRef
from oneclip.checkpoint.readers.zip_reader import CheckedZip

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI stores as buffers
MAX_ATTRIBUTES, MAX_DEPTH, MAX_NAME_LENGTH = 200_000, 64, 1000

_CLASS = re.compile(
    r"^class (?P<name>\w+)\(Module\):\n  __parameters__ = \[(?P<parameters>[^\]\n]*)\]\n"
    r"  __buffers__ = \[(?P<buffers>[^\]\n]*)\]",
    re.MULTILINE,
)


class TorchArchive:
    """PyTorch archive, open for reading.

    Args:
        path: of the file, or of a file that contains the archive.
        part: the archive, if it is a part of another file.

    Raises:
        CheckpointError: if it is damaged or not such an archive.
    """

    def __init__(self, path: str | os.PathLike[str], part: BinaryIO | None = None) -> None:
        self.path = Path(path)
        self._storages: dict[str, Tensor] = {}
        with as_checkpoint_error(self.path):
            self._zip = CheckedZip(part or self.path.open("rb"))
        try:
            with as_checkpoint_error(self.path):
                self.root = self._find_root()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> TorchArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def is_script(self) -> bool:
        """Report whether this is a TorchScript archive, and not one of `torch.save`."""
        prefix = self.root + "code/"
        return self.root + "constants.pkl" in self._zip.entries or any(
            name.startswith(prefix) for name in self._zip.entries
        )

    def content(self) -> Any:
        """Read the pickle, with a `TensorRef` for each tensor; storages are not read."""
        find_global = (
            tensor_records.find_global if self.is_script else tensor_records.find_global_or_plain_type
        )
        with as_checkpoint_error(self.path):
            data = self._zip.read(self.root + "data.pkl", max_bytes=pickle_reader.MAX_PICKLE_BYTES)
            return pickle_reader.read_pickle(data, find_global, tensor_records.parse_storage)

    def tensors(self, refs: Mapping[str, TensorRef], values: bool = True) -> dict[str, Tensor]:
        """Read tensors; those of one storage share their memory.

        Args:
            refs: descriptions by name.
            values: False to read no storage: the tensors are then on the meta device.
        """
        with as_checkpoint_error(self.path):
            stored_bytes = {ref.storage.key: self._stored_bytes(ref.storage.key) for ref in refs.values()}
            tensor_records.check_shared(refs, stored_bytes)
            if not values:
                return {name: ref.to_meta(stored_bytes[ref.storage.key]) for name, ref in refs.items()}
            return {name: self._tensor(ref) for name, ref in refs.items()}

    def load(self, values: bool = True) -> Any:
        """Read the object that was saved, including its tensors, as plain types.

        Args:
            values: as in `tensors`.
        """
        content = self.content()
        with as_checkpoint_error(self.path):
            refs = {str(number): ref for number, ref in enumerate(_find_tensors(content))}
        tensors = self.tensors(refs, values)
        return _insert_tensors(content, {id(refs[name]): tensor for name, tensor in tensors.items()}, {})

    def parameters(self, module: Record) -> dict[str, TensorRef]:
        """Return the parameters and buffers of a module, by their dotted names."""
        with as_checkpoint_error(self.path):
            return dict(self._walk(module, self._classes()))

    def source_text(self) -> Iterator[tuple[str, str]]:
        """Iterate over the code files in the archive, as module names and text."""
        prefix = self.root + "code/"
        for name in self._zip.entries:
            if name.startswith(prefix) and name.endswith(".py"):
                text = self._zip.read(name).decode("utf-8", "replace")
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
        if seen[0] > MAX_ATTRIBUTES or depth > MAX_DEPTH or len(prefix) > MAX_NAME_LENGTH:
            raise PickleError("its modules are nested too deeply, or contain themselves")
        if any(len(name) > MAX_NAME_LENGTH for name in module.attributes):
            raise PickleError("it has attribute names that are too long")
        known = classes.get(module.kind)
        for name, value in module.attributes.items():
            if isinstance(value, TensorRef) and (known is None or name in known):
                yield prefix + name, value
        for name, value in module.attributes.items():
            if isinstance(value, Record):
                yield from self._walk(value, classes, f"{prefix}{name}.", depth + 1, seen)

    def _classes(self) -> dict[str, set[str]]:
        """List the names of parameters and buffers by class; other tensors are not part of a state dict."""
        classes: dict[str, set[str]] = {}
        for module, text in self.source_text():
            for found in _CLASS.finditer(text):
                classes[f"{module}.{found['name']}"] = {
                    name.strip(' "')
                    for names in found.group("parameters", "buffers")
                    for name in names.split(",")
                }
        return classes

    def _tensor(self, ref: TensorRef) -> Tensor:
        storage = ref.storage
        if storage.key not in self._storages:
            self._stored_bytes(storage.key, storage.bytes)
            content = self._zip.read(self._entry(storage.key))
            self._storages[storage.key] = (
                torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            )
        self._stored_bytes(storage.key, storage.bytes)
        return ref.view(self._storages[storage.key])

    def _stored_bytes(self, key: str, needed: int = 0) -> int:
        """Return the size of a storage; it must be at least `needed`."""
        size = self._zip.entries[self._entry(key)].file_size
        if needed > size:
            raise PickleError(f"storage {key} has {size:,} bytes; expected {needed:,}")
        return size

    def _entry(self, key: str) -> str:
        for folder in ("data/", "constants/"):
            if self.root + folder + key in self._zip.entries:
                return self.root + folder + key
        raise PickleError(f"storage {key} is missing")

    def _find_root(self) -> str:
        roots = [
            name.removesuffix("data.pkl")
            for name in self._zip.entries
            if re.fullmatch(r"([^/]+/)?data\.pkl", name)
        ]
        if len(roots) != 1:
            raise MalformedFile(
                "it is a zip file, but not one that PyTorch wrote (no data.pkl in its folder)"
            )
        order = roots[0] + "byteorder"
        if order in self._zip.entries and self._zip.start(order, 16) != b"little":
            raise MalformedFile(
                "it was written on a big-endian machine; save it again on a little-endian one"
            )
        return roots[0]


def _find_tensors(content: Any) -> list[TensorRef]:
    """List the tensors in the content of a pickle; each list, dict and tuple is visited once.

    Raises:
        PickleError: for content that is nested too deeply, contains itself, or is much larger than its file because
            it repeats the same objects.
    """
    found: dict[int, TensorRef] = {}
    sizes: dict[int, int | None] = {}

    def size(value: Any, depth: int = 0) -> int:
        if isinstance(value, TensorRef):
            found[id(value)] = value
        if not isinstance(value, dict | list | tuple):
            return 1
        if id(value) not in sizes and depth <= MAX_DEPTH:
            sizes[id(value)] = None
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(item, depth + 1) for item in items)
        known = sizes.get(id(value))
        if known is None or known > pickle_reader.MAX_WORK:
            raise PickleError("its lists and dicts are nested deeper than any checkpoint needs")
        return known

    size(content)
    return list(found.values())


def _insert_tensors(value: Any, tensors: Mapping[int, Tensor], copies: dict[int, Any]) -> Any:
    """Replace the descriptions of tensors by the tensors; a shared object stays shared."""
    if isinstance(value, TensorRef):
        return tensors[id(value)]
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, tuple):
        copies[id(value)] = tuple(_insert_tensors(item, tensors, copies) for item in value)
    elif isinstance(value, list):
        copies[id(value)] = [_insert_tensors(item, tensors, copies) for item in value]
    else:
        copies[id(value)] = {key: _insert_tensors(item, tensors, copies) for key, item in value.items()}
    return copies[id(value)]
