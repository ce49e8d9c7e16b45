"""A file to the published weights that it is, if it is any: by its name, its checksum, or its place in a cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from oneclip import hub, zoo

_CACHED = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # as the hub's cache names a repository's folder


def published_as(path: Path, *, hashed: bool = True) -> list[zoo.Pretrained]:
    """The published weights that a file is, by whatever names they have; none if it is not known to be any.

    Args:
        path: of the file.
        hashed: False to believe a published name without comparing the checksum that belongs to it, which takes
            reading the file.

    Returns:
        Several if weights are listed under several architectures or tags.
    """
    named = [weights for weights in _all() if weights.url and hub.file_name(weights.url) == path.name]
    if named and hashed:
        checked = [weights for weights in named if weights.sha256]
        digest = hub.sha256_of(path) if checked else ""
        named = [weights for weights in named if weights.sha256 is None or digest.startswith(weights.sha256)]
    return named or _by_repository(path)


def published_with(digest: str) -> list[zoo.Pretrained]:
    """The published weights whose file has a checksum; those whose URL has only 8 digits of it, too."""
    return [weights for weights in _all() if weights.sha256 and digest.startswith(weights.sha256)]


def _by_repository(path: Path) -> list[zoo.Pretrained]:
    """By the folder of the hub's cache that a file lies in."""
    for parent in path.absolute().parents:
        if found := _CACHED.fullmatch(parent.name):
            here = found[1], found[2]
            return [
                weights for weights in _all() if weights.hf_hub and _lies(weights.hf_hub, here, path.name)
            ]
    return []


def _lies(hf_hub: str, here: tuple[str, str], file: str) -> bool:
    """Whether `owner/name`, or `owner/name/file`, means a file of a repository."""
    owner, name, *named = hf_hub.strip("/").split("/", 2)
    return (owner, name) == here and (not named or named[0] == file)


def _all() -> Iterator[zoo.Pretrained]:
    for architecture in zoo.architectures():
        for tag in zoo.pretrained_tags(architecture):
            yield zoo.pretrained(architecture, tag)
