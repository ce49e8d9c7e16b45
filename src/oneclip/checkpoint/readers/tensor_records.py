"""Descriptions of tensors, as pickles hold them, checked before anything is made of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.readers import dtype_names
from oneclip.checkpoint.readers.pickle_reader import Name, PickleError, Record

STORAGES: dict[str, torch.dtype] = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
MOST_AXES = 16
MOST_SHARED = 8  # times that stored numbers may be described, on average: weights are tied in pairs


@dataclass(frozen=True, eq=False)
class StorageRef:
    """Where the numbers of tensors lie: an entry of the archive.

    Attributes:
        count: how many numbers the pickle says there are.
    """

    dtype: torch.dtype
    key: str
    count: int

    @property
    def bytes(self) -> int:
        """What it says that it takes."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TensorRef:
    """A tensor as a view of a storage, in elements; it lies within what the pickle says the storage holds."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, data: Tensor) -> Tensor:
        """The tensor, in the bytes of its storage, (N,) uint8."""
        numbers = data[: self.storage.bytes].view(self.storage.dtype)
        return numbers.as_strided(self.shape, self.stride, self.offset)

    def blank(self, held: int) -> Tensor:
        """The same without values, on the meta device, if `held` bytes are enough for its storage."""
        if self.storage.bytes > held:
            raise PickleError(
                f"storage {self.storage.key} has {held:,} bytes, and {self.storage.bytes:,} are asked for"
            )
        return torch.empty(self.shape, dtype=self.storage.dtype, device="meta")


def check_shared(described: Mapping[str, TensorRef], held: Mapping[str, int]) -> None:
    """Refuse tensors that lie upon each other many times: a small file must not become large by being used.

    Args:
        described: tensors by name.
        held: bytes of each storage by its key.
    """
    whole = sum(held[key] for key in {ref.storage.key for ref in described.values()})
    wanted = sum(math.prod(ref.shape) * ref.storage.dtype.itemsize for ref in described.values())
    if wanted > MOST_SHARED * whole + 2**20:
        raise PickleError(f"its tensors share {whole:,} bytes as if they were {wanted:,}")


def lookup(module: str, name: str) -> Name:
    """The names that a checkpoint may use.

    Raises:
        PickleError: for any other.
    """
    text = f"{module}.{name}"
    if text == "collections.OrderedDict":
        return Name(text, _ordered_dict)
    if text in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return Name(text, _tensor)
    if text == "torch._utils._rebuild_parameter":
        return Name(text, _parameter)
    if module == "torch" and name in STORAGES:
        return Name(text, _not_callable(text))
    if module == "__torch__" or module.startswith("__torch__."):
        return Name(text, lambda arguments: Record(text))
    raise PickleError(
        f"it asks for {text}, which is not part of a checkpoint and might run code; nothing was loaded. "
        "Of a model of your own, save the state dict: torch.save(model.state_dict(), path)"
    )


def lookup_with_plain_types(module: str, name: str) -> Name:
    """`lookup`, with the plain types that training programs store beside the weights."""
    text = f"{module}.{name}"
    if text == "torch.Size":
        return Name(text, lambda arguments: tuple(*arguments))
    if text == "torch.device" or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
        return Name(text, lambda arguments: Record(text, {"arguments": arguments}))
    return dtype_names.lookup(module, name) or lookup(module, name)


def storage(description: Any) -> StorageRef:
    """What a persistent id means: `("storage", type, key, device, count)`.

    Raises:
        PickleError: if it is no such thing.
    """
    match description:
        case ("storage", Name(text=text), str(key), str(_), int(count), *_):
            dtype = STORAGES.get(text.removeprefix("torch."))
            if dtype is not None and are_sizes((count,)) and re.fullmatch(r"[\w.-]{1,255}", key):
                return StorageRef(dtype, key, count)
    raise PickleError("it describes a storage in a way that is not known")


def _tensor(arguments: tuple[Any, ...]) -> TensorRef:
    """`(storage, offset, shape, stride, requires_grad, hooks, ...)` to a description that is sound."""
    source, offset, shape, stride = arguments[:4]
    sizes = (offset,), shape, stride
    if isinstance(shape, list | tuple) and len(shape) > MOST_AXES:
        raise PickleError(f"it describes a tensor of {len(shape):,} axes")
    if not isinstance(source, StorageRef) or not all(map(are_sizes, sizes)) or len(shape) != len(stride):
        raise PickleError("it describes a tensor by something that is no storage, shape or stride")
    size = math.prod(shape)
    end = offset  # behind the last number that is read
    if size:
        end += 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if end > source.count or size > source.count:
        raise PickleError(
            f"it describes a tensor of shape {tuple(shape)}, stride {tuple(stride)}, offset {offset}, which "
            f"does not fit into its storage of {source.count:,} numbers"
        )
    return TensorRef(source, offset, tuple(shape), tuple(stride))


def _parameter(arguments: tuple[Any, ...]) -> TensorRef:
    """`(tensor, requires_grad, hooks)` to the tensor."""
    if not arguments or not isinstance(arguments[0], TensorRef):
        raise PickleError("it describes a parameter by something that is no tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """`()`, or `(pairs,)` as old files have it."""
    pairs = arguments[0] if arguments else ()
    if not isinstance(pairs, list | tuple):
        raise PickleError("it describes a dict by something that is no list of pairs")
    made: dict[Any, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise PickleError("it describes a dict whose keys are neither text nor numbers")
        made[key] = value
    return made


def _not_callable(text: str) -> Any:
    def refuse(arguments: tuple[Any, ...]) -> Any:
        raise PickleError(f"it calls {text}, which only ever names a type of numbers")

    return refuse


def are_sizes(values: Any) -> bool:
    """Whether these are sizes that a tensor can have: whole numbers from 0 on, of 63 bits."""
    if not isinstance(values, list | tuple):
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in values)
