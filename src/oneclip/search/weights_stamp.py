"""Stamp of the files of a model, which shows without reading them that its weights are those of before.

Hashing the tensors of a model takes as long as loading them. A loaded tensor is a function of its file, so an index
keeps the stamp of the files whose tensors it has compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import oneclip
from oneclip import zoo
from oneclip.hub.weights import cached_weights

MAX_FILES = 1_000  # in a folder of weights; with more of them, it is not one


def weights_stamp(model: str, precision: str) -> dict[str, Any] | None:
    """Return what decides the weights of a model, to be compared, and stored as JSON; None if that is unknown.

    It has size, times and inode of the weights file and of its neighbours, because weights can be split over files. A
    program can restore the modification time of a file that it changes, but not the time of the change (`st_ctime`).

    Args:
        model: name or path, see `oneclip.load`.
        precision: that it is loaded in.
    """
    source = zoo.resolve(model)
    path = source.path if source.pretrained is None else cached_weights(source.pretrained)
    if path is None:
        return None
    path = path.absolute()
    try:
        files = sorted(islice(_files(path), MAX_FILES + 1))
    except OSError:
        return None
    if len(files) > MAX_FILES:
        return None
    return {"version": oneclip.__version__, "precision": precision, "path": str(path), "files": files}


def _files(path: Path) -> Iterator[list[Any]]:
    """Yield path, size, times and inode of all files in a folder, or next to a file."""
    for root, folders, names in os.walk(path if path.is_dir() else path.parent):
        if not path.is_dir():
            folders.clear()
        for name in names:
            file = os.path.join(root, name)
            status = os.stat(file)
            yield [file, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
