"""Import optional packages, with an error that names the extra to install."""

import importlib
from types import ModuleType

import torch

from oneclip.errors import BrokenExtraError, MissingExtraError


def optional_package(name: str, feature: str, extra: str) -> ModuleType:
    """Import a package that is only needed for some models.

    Args:
        name: the package, or one of its modules.
        feature: what needs it, as the start of a sentence.
        extra: the extra of this distribution that installs it.

    Raises:
        MissingExtraError: if it is not installed.
        BrokenExtraError: if it is installed and its import fails.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # any error: a broken torchvision raises a RuntimeError
        if isinstance(error, ImportError) and (error.name or "") == name.partition(".")[0]:
            raise MissingExtraError(feature, extra) from error
        raise BrokenExtraError(feature, name.partition(".")[0], f"{error}{remedy(error)}") from error


def remedy(error: BaseException) -> str:
    """Return advice for a failed import, to append to its message; empty if there is none."""
    if "torchvision" not in f"{error} {getattr(error, 'name', '')}":
        return ""
    return (
        f". The installed torchvision was built for another torch than {torch.__version__}: reinstall both, "
        "from the same index and for the same device (both for CUDA, or both for the CPU)"
    )
