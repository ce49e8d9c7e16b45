"""Identify a file as published weights, by its name, its checksum or its folder in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from oneclip import hub, zoo

_CACHE_FOLDER = re.compile(r"models--([\w.-]+?)--([\w.-]+)")  # folder of a repository in the hub's cache


def identify_file(path: Path, *, verify: bool = True) -> list[zoo.Pretrained]:
    """Find the published weights that a file contains.

    Args:
        path: path of the file.
        verify: compare the checksum of a file that has a published name. False trusts the name, so that the file need
            not be read.

    Returns:
        All names of the weights, since some are listed under several architectures or tags; empty if unknown.
    """
    named = [weights for weights in _all_weights() if weights.url and hub.file_name(weights.url) == path.name]
    if named and verify:
        digest = hub.sha256_of(path) if any(weights.sha256 for weights in named) else ""
        named = [weights for weights in named if weights.sha256 is None or digest.startswith(weights.sha256)]
    return named or _identify_cached(path)


def identify_checksum(digest: str) -> list[zoo.Pretrained]:
    """Find the published weights with a sha256; weights whose URL has only the first 8 digits match too."""
    return [weights for weights in _all_weights() if weights.sha256 and digest.startswith(weights.sha256)]


def _identify_cached(path: Path) -> list[zoo.Pretrained]:
    """Identify a file by its repository, if it is in the hub's cache."""
    for parent in path.absolute().parents:
        if found := _CACHE_FOLDER.fullmatch(parent.name):
            repo = found[1], found[2]
            return [w for w in _all_weights() if w.hf_hub and _is_file_of(w.hf_hub, repo, path.name)]
    return []


def _is_file_of(hf_hub: str, repo: tuple[str, str], file: str) -> bool:
    """Check whether `owner/name`, or `owner/name/file`, means this file of this repository."""
    owner, name, *named = hf_hub.strip("/").split("/", 2)
    return (owner, name) == repo and (not named or named[0] == file)


def _all_weights() -> Iterator[zoo.Pretrained]:
    for architecture in zoo.architectures():
        for tag in zoo.pretrained_tags(architecture):
            yield zoo.pretrained(architecture, tag)
