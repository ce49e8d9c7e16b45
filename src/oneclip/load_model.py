"""`oneclip.load`: a model in torch, or an exported one, for which torch is not imported."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from oneclip.errors import DownloadError, UnknownModelError
from oneclip.runtime.exported_model import is_exported

if TYPE_CHECKING:
    from oneclip.encoder import Encoder
    from oneclip.runtime import RuntimeEncoder


def load(
    name: str | os.PathLike[str], device: Any = None, precision: str | None = None, **options: Any
) -> Encoder | RuntimeEncoder:
    """Load a model by name, or an exported folder.

    Args:
        name: an exported folder; a folder or a repository of the hub with a published ONNX export and no weights; or
            as of `oneclip.encoder.load`.
        device: as of `oneclip.encoder.load`; for an exported folder "cpu" or "cuda", None for the CPU.
        precision: as of `oneclip.encoder.load`; None for "fp32". Of an exported folder, one that it has; None for
            "fp32" if it has it, else for its first.
        options: as of `oneclip.encoder.load`.

    Returns:
        An `Encoder`, or for an export a `RuntimeEncoder`.

    Raises: the errors of `oneclip.encoder.load` or `oneclip.runtime.load_exported`.
    """
    if is_exported(name):
        from oneclip.runtime import load_exported

        return load_exported(name, device, precision, **options)
    is_first = os.path.isdir(os.path.expanduser(name)) or find_spec("torch") is None
    if is_first and (published := _load_published(name, device, precision, options)) is not None:
        return published
    from oneclip.encoder import load as load_module

    try:
        return load_module(name, device, precision, **options)
    except (DownloadError, UnknownModelError):  # a repository may contain an ONNX export alone
        if (published := _load_published(name, device, precision, options)) is None:
            raise
        return published


def _load_published(
    name: str | os.PathLike[str], device: Any, precision: str | None, options: dict[str, Any]
) -> RuntimeEncoder | None:
    """Load a published ONNX export; None if the name means something else."""
    from oneclip.runtime.published import find_published

    try:
        folder = find_published(name, precision)
    except (DownloadError, UnknownModelError):
        return None
    if folder is None:
        return None
    from oneclip.runtime import load_exported

    return load_exported(folder, device, precision, name=os.fspath(name), **options)
