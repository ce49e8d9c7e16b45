"""`torch.jit`'s marks on methods, with types."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Method = TypeVar("Method", bound=Callable[..., Any])


def unscripted(method: Method) -> Method:
    """Leave a method out when TorchScript compiles its module."""
    return cast(Method, torch.jit.ignore(method))  # type: ignore[no-untyped-call]


def is_recorded() -> bool:
    """Whether a graph is being recorded, which must serve other inputs and hold what the modules do."""
    return is_tracing() or torch.compiler.is_compiling()


def is_tracing() -> bool:
    """Whether `torch.jit.trace` is recording."""
    return bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call]
