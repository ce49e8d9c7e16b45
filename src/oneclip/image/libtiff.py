"""Keep libtiff, which Pillow reads TIFF with, from writing to stderr: it names no file, and our errors do."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from functools import cache
from pathlib import Path

import PIL


@cache
def silence_libtiff() -> bool:
    """Take away libtiff's handlers of errors and warnings, for the whole process.

    Returns:
        whether it was found: on Windows it is a part of Pillow's own module, which does not give it out.
    """
    for place in _places():
        try:  # only what is loaded already: another copy would have handlers of its own
            library = ctypes.CDLL(place, mode=getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_LAZY", 0))
            for function in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
                function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
                function(None)
        except (OSError, AttributeError):
            continue
        return True
    return False


def _places() -> list[str]:
    """Where libtiff may be: in Pillow's wheel, or in the system that Pillow was built on."""
    package = Path(PIL.__file__).parent
    bundled = [*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]
    system = ctypes.util.find_library("tiff") if not bundled and os.name == "posix" else None
    return [*map(str, bundled), *([system] if system else [])]
