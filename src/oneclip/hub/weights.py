"""Published weights to a file, from wherever they are published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from oneclip.errors import DownloadError, OfflineError
from oneclip.hub.cache import cache_folder
from oneclip.hub.huggingface import HUB_WEIGHTS, hub_file, hub_file_here
from oneclip.hub.transfer import download, file_name


class Published(Protocol):
    """Where weights lie: what of `zoo.Pretrained` is needed here."""

    @property
    def url(self) -> str | None: ...

    @property
    def hf_hub(self) -> str | None: ...

    @property
    def sha256(self) -> str | None: ...


def fetch_weights(weights: Published, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Fetch published weights, or find them on this machine.

    OpenAI's own files, whose whole checksum is in the URL, are fetched from there; the others from the
    Hugging Face hub, if they are on it.

    Args:
        weights: where they lie.
        cache_dir: where to keep them, instead of the usual folders.

    Raises:
        DownloadError: if they cannot be fetched.
    """
    if (here := weights_here(weights, cache_dir)) and not _is_from_url(weights, here):
        return here
    if weights.url and (here or len(weights.sha256 or "") == 64 or not weights.hf_hub):
        try:
            return download(weights.url, cache_dir or cache_folder(), sha256=weights.sha256)
        except OfflineError:
            raise
        except DownloadError as error:
            if not weights.hf_hub:
                raise
            repo, _ = _repository(weights.hf_hub)
            raise type(error)(
                f"{error}. The same weights are in hf-hub:{repo}, which loads by that name"
            ) from error
    if weights.hf_hub:
        repo, names = _repository(weights.hf_hub)
        return hub_file(repo, names, cache_dir=cache_dir)
    raise DownloadError("these weights are published nowhere")


def weights_here(weights: Published, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Where published weights lie on this machine, or None; asks no server and checks no sum."""
    if weights.url:
        path = Path(cache_dir or cache_folder()).expanduser() / file_name(weights.url)
        if path.is_file():
            return path
    if weights.hf_hub:
        repo, names = _repository(weights.hf_hub)
        return hub_file_here(repo, names, cache_dir=cache_dir)
    return None


def _is_from_url(weights: Published, path: Path) -> bool:
    """Whether a file came from the URL, and so has a checksum that `download` looks at."""
    return weights.url is not None and path.name == file_name(weights.url)


def _repository(hf_hub: str) -> tuple[str, tuple[str, ...]]:
    """`owner/name` or `owner/name/file` to the repository and the files that may hold the weights."""
    owner, name, *file = hf_hub.strip("/").split("/", 2)
    return f"{owner}/{name}", tuple(file) or HUB_WEIGHTS
