"""Heat maps: where in an image is the text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oneclip.explain.maps import Box, Maps, Peak

if TYPE_CHECKING:
    from oneclip.explain.run import METHODS, Method, explain

__all__ = ["METHODS", "Box", "Maps", "Method", "Peak", "explain"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # of a module that imports torch
        return getattr(import_module("oneclip.explain.run"), name)
    raise AttributeError(f"module 'oneclip.explain' has no attribute {name!r}")
