"""A PyTorch archive to tensors: a zip of one pickle and of raw storages, opened as data.

TorchScript archives, as OpenAI published CLIP, and what `torch.save` writes are both of this form. The code
that a TorchScript archive carries is never run: of its text, only the lists of each class's parameters and
buffers are read.
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
from oneclip.checkpoint.readers.read_errors import Unsound, explained
from oneclip.checkpoint.readers.tensor_records import TensorRef
from oneclip.checkpoint.readers.zip_reader import Zip

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI keeps as buffers
MOST_ATTRIBUTES, DEEPEST, LONGEST_NAME = 200_000, 64, 1000

_CLASS = re.compile(
    r"^class (?P<name>\w+)\(Module\):\n  __parameters__ = \[(?P<parameters>[^\]\n]*)\]\n"
    r"  __buffers__ = \[(?P<buffers>[^\]\n]*)\]",
    re.MULTILINE,
)


class Archive:
    """An archive, open for reading.

    Args:
        path: of the file, or of the one that it is a part of.
        part: that part.

    Raises:
        CheckpointError: if it is damaged or is no such archive.
    """

    def __init__(self, path: str | os.PathLike[str], part: BinaryIO | None = None) -> None:
        self.path = Path(path)
        self._storages: dict[str, Tensor] = {}
        with explained(self.path):
            self._zip = Zip(part or self.path.open("rb"))
        try:
            with explained(self.path):
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
        return self.root + "constants.pkl" in self._zip.entries or any(
            name.startswith(prefix) for name in self._zip.entries
        )

    def content(self) -> Any:
        """What the archive holds, with a `TensorRef` for each tensor; no storage is read."""
        known = tensor_records.lookup if self.is_script else tensor_records.lookup_with_plain_types
        with explained(self.path):
            data = self._zip.read(self.root + "data.pkl", most=pickle_reader.LARGEST)
            return pickle_reader.read_pickle(data, known, tensor_records.storage)

    def tensors(self, described: Mapping[str, TensorRef], values: bool = True) -> dict[str, Tensor]:
        """Read tensors; those of one storage share their memory.

        Args:
            described: by name.
            values: False to read no storage: the tensors are on the meta device.
        """
        with explained(self.path):
            held = {ref.storage.key: self._held(ref.storage.key) for ref in described.values()}
            tensor_records.check_shared(described, held)
            if not values:
                return {name: ref.blank(held[ref.storage.key]) for name, ref in described.items()}
            return {name: self._tensor(ref) for name, ref in described.items()}

    def whole(self, values: bool = True) -> Any:
        """What `torch.save` was given, tensors and all, made of plain types; no code of it is run.

        Args:
            values: as in `tensors`.
        """
        content = self.content()
        with explained(self.path):
            refs = {str(number): ref for number, ref in enumerate(_refs(content))}
        made = self.tensors(refs, values)
        return _replaced(content, {id(refs[name]): tensor for name, tensor in made.items()}, {})

    def parameters(self, module: Record) -> dict[str, TensorRef]:
        """The parameters and buffers of a module, by their dotted names."""
        with explained(self.path):
            return dict(self._walk(module, self._classes()))

    def source_text(self) -> Iterator[tuple[str, str]]:
        """The files of code in the archive, as module names and text."""
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
        if seen[0] > MOST_ATTRIBUTES or depth > DEEPEST or len(prefix) > LONGEST_NAME:
            raise PickleError("its modules are nested without end")
        if any(len(name) > LONGEST_NAME for name in module.attributes):
            raise PickleError("it has names that are longer than any module's")
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

    def _tensor(self, described: TensorRef) -> Tensor:
        storage = described.storage
        if storage.key not in self._storages:
            self._held(storage.key, storage.bytes)
            content = self._zip.read(self._entry(storage.key))
            self._storages[storage.key] = (
                torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            )
        self._held(storage.key, storage.bytes)
        return described.view(self._storages[storage.key])

    def _held(self, key: str, wanted: int = 0) -> int:
        """How many bytes a storage has; those wanted must be among them."""
        held = self._zip.entries[self._entry(key)].file_size
        if wanted > held:
            raise PickleError(f"storage {key} has {held:,} bytes, and {wanted:,} are asked for")
        return held

    def _entry(self, key: str) -> str:
        for folder in ("data/", "constants/"):
            if self.root + folder + key in self._zip.entries:
                return self.root + folder + key
        raise PickleError(f"storage {key} is not in it")

    def _find_root(self) -> str:
        roots = [
            name.removesuffix("data.pkl")
            for name in self._zip.entries
            if re.fullmatch(r"([^/]+/)?data\.pkl", name)
        ]
        if len(roots) != 1:
            raise Unsound(
                "it is a zip file, but holds no model that PyTorch wrote (no data.pkl in its folder)"
            )
        order = roots[0] + "byteorder"
        if order in self._zip.entries and self._zip.start(order, 16) != b"little":
            raise Unsound("it was written on a big-endian machine; save it again on a usual one")
        return roots[0]


def _refs(content: Any) -> list[TensorRef]:
    """The tensors in what a pickle describes, each list, dict and tuple being gone through once.

    Raises:
        PickleError: for what lies too deep, in itself, or is much larger than its file because it holds the same again
            and again.
    """
    found: dict[int, TensorRef] = {}
    sizes: dict[int, int | None] = {}

    def size(value: Any, depth: int = 0) -> int:
        if isinstance(value, TensorRef):
            found[id(value)] = value
        if not isinstance(value, dict | list | tuple):
            return 1
        if id(value) not in sizes and depth <= DEEPEST:
            sizes[id(value)] = None
            items = value.values() if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(item, depth + 1) for item in items)
        known = sizes.get(id(value))
        if known is None or known > pickle_reader.MOST_WORK:
            raise PickleError("its lists and dicts are nested deeper than any checkpoint needs")
        return known

    size(content)
    return list(found.values())


def _replaced(value: Any, tensors: Mapping[int, Tensor], made: dict[int, Any]) -> Any:
    """A value with tensors for their descriptions; what was one object stays one."""
    if isinstance(value, TensorRef):
        return tensors[id(value)]
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) in made:
        return made[id(value)]
    if isinstance(value, tuple):
        made[id(value)] = tuple(_replaced(item, tensors, made) for item in value)
    elif isinstance(value, list):
        made[id(value)] = [_replaced(item, tensors, made) for item in value]
    else:
        made[id(value)] = {key: _replaced(item, tensors, made) for key, item in value.items()}
    return made[id(value)]
