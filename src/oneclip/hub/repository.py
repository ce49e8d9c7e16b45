"""A repository on the Hugging Face hub to a folder in the hub's cache that holds all a model consists of."""

from __future__ import annotations

import json
import os
from pathlib import Path

from oneclip.errors import CheckpointError
from oneclip.hub.huggingface import HUB_WEIGHTS, hub_file, hub_files

OPEN_CLIP_CONFIG = "open_clip_config.json"
TRANSFORMERS_CONFIG = "config.json"
TRANSFORMERS_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The usual names of weights beside a `config.json`; an index names the files that weights are spread over."""


def fetch_model(
    repo: str,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Fetch configuration, preprocessing and weights of a model, or find them in the hub's cache.

    All of one commit: what a branch points to is looked up once, for the configuration.

    Args:
        repo: `owner/name`.
        subfolder: folder of the repository that holds the model.
        revision: branch, tag or commit.
        cache_dir: where to keep it, instead of the hub's usual cache.

    Returns:
        A folder with an `open_clip_config.json` and its weights, or else with a `config.json`, its weights and
        perhaps a `preprocessor_config.json`, as transformers has them.

    Raises:
        OfflineError: if something is not there and the network is switched off.
        ChecksumError: if what came is not what the hub has.
        CheckpointError: for an index of weights that cannot be read.
        DownloadError: if the repository holds no model of these kinds, or cannot be fetched.
        OutputError: if it cannot be written.
    """
    configs = (OPEN_CLIP_CONFIG, TRANSFORMERS_CONFIG)
    config = hub_file(repo, configs, subfolder=subfolder, revision=revision, cache_dir=cache_dir)
    folder = config.parent
    commit = (folder.parents[len(Path(subfolder).parts) - 1] if subfolder else folder).name
    where = {"subfolder": subfolder, "revision": commit, "cache_dir": cache_dir}
    if config.name == OPEN_CLIP_CONFIG:
        hub_file(repo, HUB_WEIGHTS, **where)  # type: ignore[arg-type]
        return folder
    hub_files(repo, ["preprocessor_config.json"], **where)  # type: ignore[arg-type]
    weights = hub_file(repo, TRANSFORMERS_WEIGHTS, **where)  # type: ignore[arg-type]
    if weights.name.endswith(".index.json"):
        for name in _shards(weights):
            hub_file(repo, name, **where)  # type: ignore[arg-type]
    return folder


def _shards(index: Path) -> list[str]:
    """The files that an index names, which all lie beside it."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights: {type(error).__name__}: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise CheckpointError(f"{index} names {name!r}, which is no file beside it")
    return sorted(names)
