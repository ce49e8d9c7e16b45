"""Hooks that the models ignore, to count the work that is done without hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import nn

from oneclip.model import untouched


@contextmanager
def unseen(module: nn.Module, before: Callable[[nn.Module, Any], Any]) -> Iterator[None]:
    """Call `before` with the module and its arguments at each call; the model behaves as if there were no hook."""
    handle = module.register_forward_pre_hook(before)
    try:
        with mock.patch.object(untouched, "is_untouched", return_value=True):
            yield
    finally:
        handle.remove()
