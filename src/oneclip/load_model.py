"""`oneclip.load`: a model in torch, or an exported one, for which torch is not imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from oneclip.runtime.exported_model import is_exported

if TYPE_CHECKING:
    from oneclip.encoder import Encoder
    from oneclip.runtime import RuntimeEncoder


def load(
    name: str | os.PathLike[str], device: Any = None, precision: str | None = None, **options: Any
) -> Encoder | RuntimeEncoder:
    """Load a model by name, or an exported folder.

    Args:
        name: an exported folder, or as of `oneclip.encoder.load`.
        device: as of `oneclip.encoder.load`; for an exported folder "cpu" or "cuda", None for the CPU.
        precision: as of `oneclip.encoder.load`; None for "fp32". Of an exported folder, one that it has; None for
            "fp32" if it has it, else for its first.
        options: as of `oneclip.encoder.load`.

    Returns:
        An `Encoder`, or for an exported folder a `RuntimeEncoder`.

    Raises: the errors of `oneclip.encoder.load` or `oneclip.runtime.load_exported`.
    """
    if is_exported(name):
        from oneclip.runtime import load_exported

        return load_exported(name, device, precision, **options)
    from oneclip.encoder import load as load_module

    return load_module(name, device, precision or "fp32", **options)
