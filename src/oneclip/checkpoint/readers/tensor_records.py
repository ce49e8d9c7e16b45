"""Descriptions of tensors in pickles, checked before memory is allocated for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from oneclip.checkpoint.readers import plain_types
from oneclip.checkpoint.readers.pickle_reader import AllowedGlobal, PickleError, Record

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
MAX_DIMS = 16
MAX_SHARING = 8  # average number of tensors per stored number: usually at most two weights are tied


@dataclass(frozen=True, eq=False)
class StorageRef:
    """Storage of the numbers of tensors: an entry of the archive.

    Attributes:
        count: of numbers, according to the pickle.
    """

    dtype: torch.dtype
    key: str
    count: int

    @property
    def bytes(self) -> int:
        """Size in bytes, according to the pickle."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TensorRef:
    """Tensor as a view of a storage, in elements. The view stays within the storage's `count`."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, data: Tensor) -> Tensor:
        """Create the tensor from the bytes of its storage, (N,) uint8."""
        numbers = data[: self.storage.bytes].view(self.storage.dtype)
        return numbers.as_strided(self.shape, self.stride, self.offset)

    def to_meta(self, stored_bytes: int) -> Tensor:
        """Create the tensor on the meta device, if its storage, of `stored_bytes`, is large enough."""
        if self.storage.bytes > stored_bytes:
            raise PickleError(
                f"storage {self.storage.key} has {stored_bytes:,} bytes; expected {self.storage.bytes:,}"
            )
        return torch.empty(self.shape, dtype=self.storage.dtype, device="meta")


def check_shared(refs: Mapping[str, TensorRef], stored_bytes: Mapping[str, int]) -> None:
    """Refuse tensors that share the same numbers many times: a small file must not become large when it is copied.

    Args:
        refs: tensors by name.
        stored_bytes: size of each storage by its key.
    """
    stored = sum(stored_bytes[key] for key in {ref.storage.key for ref in refs.values()})
    copied = sum(math.prod(ref.shape) * ref.storage.dtype.itemsize for ref in refs.values())
    if copied > MAX_SHARING * stored + 2**20:
        raise PickleError(f"its tensors have {copied:,} bytes, but share only {stored:,} bytes of storage")


def find_global(module: str, name: str) -> AllowedGlobal:
    """Return what a global in a checkpoint means.

    Raises:
        PickleError: for a name that checkpoints do not need.
    """
    text = f"{module}.{name}"
    if text == "collections.OrderedDict":
        return AllowedGlobal(text, _ordered_dict)
    if text in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return AllowedGlobal(text, _rebuild_tensor)
    if text == "torch._utils._rebuild_parameter":
        return AllowedGlobal(text, _rebuild_parameter)
    if module == "torch" and name in STORAGES:
        return AllowedGlobal(text, _refuse_call(text))
    if module == "__torch__" or module.startswith("__torch__."):
        return AllowedGlobal(text, lambda arguments: Record(text))
    raise PickleError(
        f"it refers to {text}, which is not part of a checkpoint and might run code; nothing was loaded. "
        "For your own model, save the state dict: torch.save(model.state_dict(), path)"
    )


def find_global_or_plain_type(module: str, name: str) -> AllowedGlobal:
    """Extend `find_global` by the plain types that training programs store with the weights."""
    text = f"{module}.{name}"
    if text == "torch.Size":
        return AllowedGlobal(text, lambda arguments: tuple(*arguments))
    if text == "torch.device" or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
        return AllowedGlobal(text, lambda arguments: Record(text, {"arguments": arguments}))
    return plain_types.find_plain_type(module, name) or find_global(module, name)


def parse_storage(description: Any) -> StorageRef:
    """Read a persistent id: `("storage", type, key, device, count)`.

    Raises:
        PickleError: if it has another form.
    """
    match description:
        case ("storage", AllowedGlobal(text=text), str(key), str(_), int(count), *_):
            dtype = STORAGES.get(text.removeprefix("torch."))
            if dtype is not None and are_sizes((count,)) and re.fullmatch(r"[\w.-]{1,255}", key):
                return StorageRef(dtype, key, count)
    raise PickleError("it describes a storage in an unknown form")


def _rebuild_tensor(arguments: tuple[Any, ...]) -> TensorRef:
    """Read `(storage, offset, shape, stride, requires_grad, hooks, ...)` and check the sizes."""
    source, offset, shape, stride = arguments[:4]
    sizes = (offset,), shape, stride
    if isinstance(shape, list | tuple) and len(shape) > MAX_DIMS:
        raise PickleError(f"it describes a tensor of {len(shape):,} dimensions")
    if not isinstance(source, StorageRef) or not all(map(are_sizes, sizes)) or len(shape) != len(stride):
        raise PickleError("it describes a tensor without a valid storage, shape or stride")
    size = math.prod(shape)
    end = offset  # after the last number that is read
    if size:
        end += 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if end > source.count or size > source.count:
        raise PickleError(
            f"it describes a tensor of shape {tuple(shape)}, stride {tuple(stride)}, offset {offset}, which does not "
            f"fit into its storage of {source.count:,} numbers"
        )
    return TensorRef(source, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(arguments: tuple[Any, ...]) -> TensorRef:
    """Read `(tensor, requires_grad, hooks)`."""
    if not arguments or not isinstance(arguments[0], TensorRef):
        raise PickleError("it describes a parameter without a tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Read `()`, or `(pairs,)` in old files."""
    pairs = arguments[0] if arguments else ()
    if not isinstance(pairs, list | tuple):
        raise PickleError("it describes a dict without a list of pairs")
    result: dict[Any, Any] = {}
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise PickleError("it describes a dict with keys that are neither text nor numbers")
        result[key] = value
    return result


def _refuse_call(text: str) -> Any:
    def refuse(arguments: tuple[Any, ...]) -> Any:
        raise PickleError(f"it calls {text}, which is only the name of a dtype")

    return refuse


def are_sizes(values: Any) -> bool:
    """Report whether these are valid sizes of a tensor: integers of 63 bits, not negative."""
    if not isinstance(values, list | tuple):
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**63 for n in values)
