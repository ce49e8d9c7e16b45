"""Read the index of a checkpoint that is split into several files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from oneclip.errors import CheckpointError, CheckpointNotFoundError
from oneclip.hub import read_json

INDEX_SUFFIX = ".index.json"
MAX_SHARDS = 1000
_SHARD_NAME = re.compile(r"[\w-][\w. -]*\.(safetensors|bin|pt|pth)", re.ASCII)


def is_index(path: Path) -> bool:
    """Report whether a file is an index, by its name."""
    return path.name.endswith(INDEX_SUFFIX)


def read_index(path: Path) -> dict[str, list[str]]:
    """Read the names of the shards, each with the names of its tensors.

    Raises:
        CheckpointError: if the file is not an index, or names a file in another folder.
    """
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(f"{path} is not an index of shards: it has no weight_map")
    files: dict[str, list[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or len(shard) > 255 or not _SHARD_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{path} names the shard {str(shard)[:80]!r}; expected the name of a weights file in the same folder"
            )
        files.setdefault(shard, []).append(tensor)
    if len(files) > MAX_SHARDS:
        raise CheckpointError(f"{path} names {len(files):,} shards; expected at most {MAX_SHARDS:,}")
    return files


def shard_paths(index: Path, fetch: Callable[[str], Path] | None = None) -> dict[Path, list[str]]:
    """Find the shards of an index, each with the names of its tensors.

    Args:
        index: the file.
        fetch: downloads a shard by its name; without it, shards are in the folder of the index.

    Raises:
        CheckpointNotFoundError: if one is missing.
    """
    paths: dict[Path, list[str]] = {}
    for name, tensors in read_index(index).items():
        path = fetch(name) if fetch else index.parent / name
        if not path.is_file():
            raise CheckpointNotFoundError(
                f"{index} names {name}, which does not exist; download it, or the whole folder again"
            )
        paths[path] = tensors
    return paths
