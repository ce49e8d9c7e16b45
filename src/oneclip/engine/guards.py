"""Which modules a plan may stand in for: those whose computation it knows, and nobody has changed."""

from __future__ import annotations

from torch import nn

from oneclip.model.layers import DropPath
from oneclip.model.siglip_layers import PatchDrop
from oneclip.model.untouched import METHODS, is_own

OURS = ("oneclip", "clip", "open_clip")  # whose subclasses compute the same, in whatever layout


class Unplanned(Exception):
    """There is no plan for a tower, and why; it never leaves the engine."""


def must_be(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Raise Unplanned unless a module is of one of these classes as they are, or as our facades have them.

    A subclass made elsewhere may compute anything, and so may a module that was given a method of its own.
    """
    kind = type(module)
    if kind not in kinds and not (isinstance(module, kinds) and kind.__module__.split(".")[0] in OURS):
        raise Unplanned(f"{kind.__module__}.{kind.__name__} where {kinds[0].__name__} was expected")
    if not all(is_own(getattr(kind, name, None)) for name in METHODS):
        raise Unplanned(f"a method of {kind.__name__} was replaced")
    for name, value in vars(module).items():
        ours = str(getattr(value, "__module__", "")).startswith("oneclip.engine")  # `accelerate`'s way in
        if callable(getattr(kind, name, None)) and not ours:
            raise Unplanned(f"{kind.__name__}.{name} was replaced in one module")


def must_pass_through(*modules: nn.Module) -> None:
    """Raise Unplanned unless each module gives its input back: an identity, or a dropout in evaluation mode."""
    for module in modules:
        must_be(module, nn.Identity, nn.Dropout, DropPath, PatchDrop)
        if module.training and not isinstance(module, nn.Identity):
            raise Unplanned(f"a {type(module).__name__} is in training mode")
