"""A folder or a repository to the files of its tokenizer, those that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from oneclip import hub
from oneclip.errors import ConfigError, DownloadError, OfflineError, TokenizerNotFoundError
from oneclip.hub.cache import PULL_HINT, SWITCHED_OFF
from oneclip.text.hf.tokenizer_config import (
    CONFIG,
    JSON,
    MERGES,
    MODELS,
    SETTINGS_FILES,
    VOCAB_JSON,
    VOCAB_TXT,
)

PREFIX = "hf-hub:"
VOCABULARIES = ((JSON,), (VOCAB_TXT,), (VOCAB_JSON, MERGES), *((name,) for name in MODELS))
"""Files that hold a vocabulary, the one that says most first; what stands together belongs together."""

ALIASES = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
    "xlm-roberta-large": "FacebookAI/xlm-roberta-large",
}
"""Names that configurations use, to those that the repositories have now."""

_NAME = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+?)?)(?:/(?P<subfolder>[^@]+?))?/?(?:@(?P<revision>.+))?")

Files = dict[str, Path]


def find_files(source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> Files:
    """The files of a tokenizer: name to path.

    Args:
        source: a folder, or a repository as `owner/name` or `hf-hub:owner/name[/subfolder][@revision]`. A folder comes
            before a repository of that name.
        cache_dir: the hub's cache, if not the usual one.

    Raises:
        ConfigError: if there is no tokenizer, or the name is none.
        DownloadError: if it cannot be fetched; an `OfflineError` if the network is switched off.
    """
    if found := look_for_files(source, cache_dir):
        return found
    wanted = ", ".join(map(" with ".join, VOCABULARIES))
    if is_folder(source):
        raise TokenizerNotFoundError(holds_none(source))
    if hub.offline():
        raise OfflineError(f"the tokenizer {source} is not on this machine and {SWITCHED_OFF}. {PULL_HINT}")
    raise DownloadError(f"{source} has no tokenizer that can be read: none of {wanted}")


def holds_none(folder: str | os.PathLike[str]) -> str:
    """What to say of a folder without a tokenizer: which files to bring."""
    older = ", ".join(map(" with ".join, VOCABULARIES[1:]))
    return f"{os.fspath(folder)} holds no tokenizer: bring its {JSON} and {CONFIG} there, or, of older ones, {older}"


def look_for_files(source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> Files:
    """`find_files`, but an empty dict where there is no tokenizer, or none here while the network is switched off."""
    if is_folder(source):
        return _in_folder(Path(source).expanduser())
    match = _NAME.fullmatch(os.fspath(source).removeprefix(PREFIX))
    if not match:
        raise ConfigError(f"{source!r} is neither a folder nor the name of a repository, owner/name")
    repo, subfolder, revision = match["repo"], match["subfolder"], match["revision"]
    for name in (repo, *([ALIASES[repo]] if repo in ALIASES else [])):
        if found := _in_cache(name, subfolder, revision, cache_dir):
            return found

    def of(names: Sequence[str]) -> Files:
        return hub.hub_files(repo, names, subfolder=subfolder, revision=revision, cache_dir=cache_dir)

    settings = of(SETTINGS_FILES)
    vocabulary = _chosen(of)
    return settings | vocabulary if vocabulary else {}


def is_folder(source: str | os.PathLike[str]) -> bool:
    """Whether this means a folder rather than a repository."""
    if not isinstance(source, str):
        return True
    return not source.startswith(PREFIX) and (os.path.isdir(source) or source.startswith((".", "/", "~")))


def _in_folder(folder: Path) -> Files:
    def of(names: Sequence[str]) -> Files:
        return {name: folder / name for name in names if (folder / name).is_file()}

    vocabulary = _chosen(of)
    if not vocabulary and len(models := list(folder.glob("*.model"))) == 1:
        vocabulary = {models[0].name: models[0]}
    return of(SETTINGS_FILES) | vocabulary if vocabulary else {}


def _in_cache(
    repo: str, subfolder: str | None, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> Files:
    """What the hub's cache has of a tokenizer, taken as it is, without a request: weights do not change either.

    A vocabulary without settings is not taken: another program may have fetched it alone.
    """

    def of(names: Sequence[str]) -> Files:
        place = {"subfolder": subfolder, "revision": revision, "cache_dir": cache_dir}
        found = ((name, hub.hub_file_here(repo, name, **place)) for name in names)  # type: ignore[arg-type]
        return {name: path for name, path in found if path}

    settings = of(SETTINGS_FILES)
    return settings | vocabulary if settings and (vocabulary := _chosen(of)) else {}


def _chosen(of: Callable[[Sequence[str]], Files]) -> Files:
    """The vocabulary that says most, of those that `of` finds."""
    for names in VOCABULARIES:
        found = of(names)
        if len(found) == len(names):
            return found
    return {}
