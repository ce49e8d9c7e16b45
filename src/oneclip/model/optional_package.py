"""The name of an optional package to the package, or to an error that says what to do about it."""

import importlib
from types import ModuleType

import torch

from oneclip.errors import BrokenExtraError, MissingExtraError


def optional_package(name: str, feature: str, extra: str) -> ModuleType:
    """Import a package that is only needed for some models.

    Args:
        name: of the package, or of a module of it.
        feature: what needs it, as the start of a sentence.
        extra: the extra of this distribution that brings it.

    Raises:
        MissingExtraError: if it is not installed.
        BrokenExtraError: if it is, and its import fails.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever a package's import may raise: torchvision's is a RuntimeError
        if isinstance(error, ImportError) and (error.name or "") == name.partition(".")[0]:
            raise MissingExtraError(feature, extra) from error
        raise BrokenExtraError(feature, name.partition(".")[0], f"{error}{remedy(error)}") from error


def remedy(error: BaseException) -> str:
    """What to do about the import of another package that fails, behind its message; empty if nothing is known."""
    if "torchvision" not in f"{error} {getattr(error, 'name', '')}":
        return ""
    return (
        f". The torchvision here was built for another torch than {torch.__version__}: install both anew, "
        "from the same place and of one build (both for CUDA, or both for the CPU)"
    )
