"""An index of files, each with a part of the tensors, to all of the tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from oneclip.errors import CheckpointError, CheckpointNotFoundError
from oneclip.hub import read_json

SUFFIX = ".index.json"
MOST_SHARDS = 1000
_SHARD = re.compile(r"[\w-][\w. -]*\.(safetensors|bin|pt|pth)", re.ASCII)


def is_index(path: Path) -> bool:
    """Whether a file is an index by its name."""
    return path.name.endswith(SUFFIX)


def read_index(path: Path) -> dict[str, list[str]]:
    """The files that an index names, each with its tensors.

    Raises:
        CheckpointError: if it is no index, or names a file that does not lie beside it.
    """
    named = read_json(path).get("weight_map")
    if not isinstance(named, Mapping) or not named:
        raise CheckpointError(f"{path} is no index of shards: it has no weight_map")
    files: dict[str, list[str]] = {}
    for tensor, shard in named.items():
        if not isinstance(shard, str) or len(shard) > 255 or not _SHARD.fullmatch(shard):
            raise CheckpointError(
                f"{path} names {str(shard)[:80]!r} as a shard, which is no plain file name of weights beside it"
            )
        files.setdefault(shard, []).append(tensor)
    if len(files) > MOST_SHARDS:
        raise CheckpointError(
            f"{path} names {len(files):,} shards; {MOST_SHARDS:,} are the most that are read"
        )
    return files


def shard_paths(index: Path, fetch: Callable[[str], Path] | None = None) -> dict[Path, list[str]]:
    """Where the shards of an index lie, each with the names of its tensors.

    Args:
        index: the file.
        fetch: brings a shard here by its name; without it they lie beside the index.

    Raises:
        CheckpointNotFoundError: if one is missing.
    """
    paths: dict[Path, list[str]] = {}
    for name, tensors in read_index(index).items():
        path = fetch(name) if fetch else index.parent / name
        if not path.is_file():
            raise CheckpointNotFoundError(
                f"{index} names {name}, which is not there; fetch it, or the whole folder again"
            )
        paths[path] = tensors
    return paths
