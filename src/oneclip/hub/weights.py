"""Published weights, from their URL or the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from oneclip.errors import DownloadError, OfflineError
from oneclip.hub.cache import cache_folder
from oneclip.hub.huggingface import HUB_WEIGHTS, cached_hub_file, hub_file
from oneclip.hub.transfer import download, file_name


class WeightsLocation(Protocol):
    """Location of published weights; the fields of `zoo.Pretrained` that are used here."""

    @property
    def url(self) -> str | None: ...

    @property
    def hf_hub(self) -> str | None: ...

    @property
    def sha256(self) -> str | None: ...


def fetch_weights(weights: WeightsLocation, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Download published weights, or find them on this machine.

    OpenAI's own files have their full checksum in the URL and are fetched from there; others from the Hugging Face
    hub if it has them.

    Args:
        weights: where they are published.
        cache_dir: folder to use instead of the usual ones.

    Raises:
        DownloadError: if they cannot be fetched.
    """
    if (here := cached_weights(weights, cache_dir)) and not _is_from_url(weights, here):
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
            raise type(error)(f"{error}. The same weights can be loaded as hf-hub:{repo}") from error
    if weights.hf_hub:
        repo, names = _repository(weights.hf_hub)
        return hub_file(repo, names, cache_dir=cache_dir)
    raise DownloadError("these weights have neither a URL nor a repository on the Hugging Face hub")


def cached_weights(weights: WeightsLocation, cache_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the path of published weights on this machine, or None; no network access and no checksum."""
    if weights.url:
        path = Path(cache_dir or cache_folder()).expanduser() / file_name(weights.url)
        if path.is_file():
            return path
    if weights.hf_hub:
        repo, names = _repository(weights.hf_hub)
        return cached_hub_file(repo, names, cache_dir=cache_dir)
    return None


def _is_from_url(weights: WeightsLocation, path: Path) -> bool:
    """Return whether a file was downloaded from the URL, so that `download` verifies its checksum."""
    return weights.url is not None and path.name == file_name(weights.url)


def _repository(hf_hub: str) -> tuple[str, tuple[str, ...]]:
    """Split `owner/name` or `owner/name/file` into the repository and the possible file names."""
    owner, name, *file = hf_hub.strip("/").split("/", 2)
    return f"{owner}/{name}", tuple(file) or HUB_WEIGHTS
