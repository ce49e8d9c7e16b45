"""Checks that a plan computes the same as the modules it replaces."""

from __future__ import annotations

from torch import nn

from oneclip.model.layers import DropPath
from oneclip.model.siglip_layers import PatchDrop
from oneclip.model.untouched import METHODS, is_own

OWN_PACKAGES = ("oneclip", "clip", "open_clip")  # their subclasses differ in layout only


class PlanUnsupported(Exception):
    """The reason why a tower has no plan; it is caught inside the engine."""


def require_type(module: nn.Module, *kinds: type[nn.Module]) -> None:
    """Raise PlanUnsupported unless a module is exactly of one of these classes, or of a facade's subclass.

    A subclass from any other package may compute something else, and so may a module with a method of its own.
    """
    kind = type(module)
    if kind not in kinds and not (
        isinstance(module, kinds) and kind.__module__.split(".")[0] in OWN_PACKAGES
    ):
        raise PlanUnsupported(f"found {kind.__module__}.{kind.__name__}; expected {kinds[0].__name__}")
    if not all(is_own(getattr(kind, name, None)) for name in METHODS):
        raise PlanUnsupported(f"a method of the class {kind.__name__} was replaced")
    for name, value in vars(module).items():
        ours = str(getattr(value, "__module__", "")).startswith("oneclip.engine")  # set by `accelerate`
        if callable(getattr(kind, name, None)) and not ours:
            raise PlanUnsupported(f"{kind.__name__}.{name} was replaced in one module")


def require_identity(*modules: nn.Module) -> None:
    """Raise PlanUnsupported unless each module returns its input: an identity, or a dropout in evaluation mode."""
    for module in modules:
        require_type(module, nn.Identity, nn.Dropout, DropPath, PatchDrop)
        if module.training and not isinstance(module, nn.Identity):
            raise PlanUnsupported(f"a {type(module).__name__} is in training mode")
