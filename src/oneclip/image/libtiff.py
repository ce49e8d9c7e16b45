"""Stop libtiff, Pillow's TIFF library, from writing to stderr. Our own errors name the file."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path

import PIL


@cache
def silence_libtiff() -> bool:
    """Remove the error and warning handlers of libtiff in this process.

    Returns:
        True if the library was found. On Windows it is compiled into Pillow and cannot be reached.
    """
    for path in _library_paths():
        try:  # only a loaded library: another copy would have other handlers
            library = ctypes.CDLL(path, mode=getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_LAZY", 0))
            for function in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
                function(None)
        except (OSError, AttributeError):
            continue
        return True
    return False


def _library_paths() -> list[str]:
    """List the paths of libtiff: inside the wheel of Pillow, or in the system."""
    package = Path(PIL.__file__).parent
    bundled = [*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]
    system = ctypes.util.find_library("tiff") if not bundled and os.name == "posix" else None
    return [*map(str, bundled), *([system] if system else [])]
