"""Find the tokenizer files in a folder, in the cache of the hub, or in a repository."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from oneclip import hub, zoo
from oneclip.errors import ConfigError, DownloadError, OfflineError, TokenizerNotFoundError
from oneclip.hub.cache import OFFLINE_REASON, PULL_HINT
from oneclip.text.hf.tokenizer_config import (
    MERGES,
    SENTENCEPIECE_FILES,
    SETTINGS_FILES,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VOCAB_JSON,
    VOCAB_TXT,
)

VOCABULARIES = (
    (TOKENIZER_JSON,),
    (VOCAB_TXT,),
    (VOCAB_JSON, MERGES),
    *((name,) for name in SENTENCEPIECE_FILES),
)
"""Vocabulary files, the most complete first. Files in one tuple are used together."""

ALIASES = {
    "bert-base-uncased": "google-bert/bert-base-uncased",
    "roberta-base": "FacebookAI/roberta-base",
    "xlm-roberta-base": "FacebookAI/xlm-roberta-base",
    "xlm-roberta-large": "FacebookAI/xlm-roberta-large",
}
"""Repository names in configurations to their current names."""

Files = dict[str, Path]


def require_tokenizer_files(
    source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None
) -> Files:
    """Find the files of a tokenizer, and download them if necessary.

    Args:
        source: a folder, or a repository as `owner/name` or `hf-hub:owner/name[/subfolder][@revision]`. A folder is
            preferred to a repository with the same name.
        cache_dir: cache folder of the hub; None for the default.

    Returns:
        File name to path.

    Raises:
        ConfigError: if the folder has no tokenizer, or the name is invalid.
        DownloadError: if it cannot be downloaded; `OfflineError` if the network is switched off.
    """
    if found := find_tokenizer_files(source, cache_dir):
        return found
    wanted = ", ".join(map(" with ".join, VOCABULARIES))
    if is_folder(source):
        raise TokenizerNotFoundError(no_tokenizer_message(source))
    if hub.offline():
        raise OfflineError(f"the tokenizer {source} is not on this machine and {OFFLINE_REASON}. {PULL_HINT}")
    raise DownloadError(f"{source} has no tokenizer that can be read; expected one of {wanted}")


def no_tokenizer_message(folder: str | os.PathLike[str]) -> str:
    """Describe which files are missing in a folder without a tokenizer."""
    older = ", ".join(map(" with ".join, VOCABULARIES[1:]))
    return (
        f"{os.fspath(folder)} has no tokenizer: copy {TOKENIZER_JSON} and {TOKENIZER_CONFIG} into it, or files of an "
        f"older tokenizer: {older}"
    )


def find_tokenizer_files(
    source: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None
) -> Files:
    """Find tokenizer files as `require_tokenizer_files` does, but return an empty dict if there are none."""
    if is_folder(source):
        folder, kind = zoo.local_path(os.fspath(source))
        return _in_folder(folder) if kind == "folder" else {}
    address = zoo.parse_hub_address(os.fspath(source))
    if address is None:
        raise ConfigError(f"{source!r} is neither a folder nor a repository name (owner/name)")
    repo, subfolder, revision = address
    for name in (repo, *([ALIASES[repo]] if repo in ALIASES else [])):
        if found := _in_cache(name, subfolder, revision, cache_dir):
            return found

    def find(names: Sequence[str]) -> Files:
        return hub.hub_files(repo, names, subfolder=subfolder, revision=revision, cache_dir=cache_dir)

    settings = find(SETTINGS_FILES)
    vocabulary = _choose_vocabulary(find)
    return settings | vocabulary if vocabulary else {}


def is_folder(source: str | os.PathLike[str]) -> bool:
    """Report whether this means a folder instead of a repository."""
    if not isinstance(source, str):
        return True
    return not source.startswith(zoo.HUB_PREFIX) and (
        os.path.isdir(source) or source.startswith((".", "/", "~"))
    )


def _in_folder(folder: Path) -> Files:
    def find(names: Sequence[str]) -> Files:
        return {name: folder / name for name in names if (folder / name).is_file()}

    vocabulary = _choose_vocabulary(find)
    if not vocabulary and len(models := list(folder.glob("*.model"))) == 1:
        vocabulary = {models[0].name: models[0]}
    return find(SETTINGS_FILES) | vocabulary if vocabulary else {}


def _in_cache(
    repo: str, subfolder: str | None, revision: str | None, cache_dir: str | os.PathLike[str] | None
) -> Files:
    """Find tokenizer files in the cache of the hub, without asking the server for newer ones, as for weights.

    A vocabulary without settings is ignored: another program may have downloaded only that file.
    """

    def find(names: Sequence[str]) -> Files:
        place = {"subfolder": subfolder, "revision": revision, "cache_dir": cache_dir}
        found = ((name, hub.cached_hub_file(repo, name, **place)) for name in names)  # type: ignore[arg-type]
        return {name: path for name, path in found if path}

    settings = find(SETTINGS_FILES)
    return settings | vocabulary if settings and (vocabulary := _choose_vocabulary(find)) else {}


def _choose_vocabulary(find: Callable[[Sequence[str]], Files]) -> Files:
    """Return the most complete vocabulary that `find` finds."""
    for names in VOCABULARIES:
        found = find(names)
        if len(found) == len(names):
            return found
    return {}
