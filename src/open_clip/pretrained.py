"""`open_clip.pretrained`: names of trained weights to where they lie, and from there to files on this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from oneclip import hub, zoo
from oneclip.errors import UnknownModelError
from oneclip.zoo import Pretrained

__all__ = [
    "download_pretrained",
    "download_pretrained_from_hf",
    "download_pretrained_from_url",
    "get_pretrained_cfg",
    "get_pretrained_url",
    "is_pretrained_cfg",
    "list_pretrained",
    "list_pretrained_models_by_tag",
    "list_pretrained_tags_by_model",
]


def list_pretrained(as_str: bool = False) -> list[Any]:
    """All trained weights as (architecture, tag), or as "architecture:tag"."""
    return [":".join(pair) if as_str else pair for pair in zoo.published()]


def list_pretrained_models_by_tag(tag: str) -> list[str]:
    """The architectures that have weights of a tag."""
    return [name for name, known in zoo.published() if known == _clean(tag)]


def list_pretrained_tags_by_model(model: str) -> list[str]:
    """The tags that an architecture has; none for a name that is not known."""
    return [tag for name, tag in zoo.published() if name == model]


def is_pretrained_cfg(model: str, tag: str) -> bool:
    """Whether an architecture has weights of a tag."""
    return (model, _clean(tag)) in zoo.published()


def get_pretrained_cfg(model: str, tag: str) -> dict[str, Any]:
    """Where weights lie and how pictures are prepared for them; {} for what is not known."""
    if not is_pretrained_cfg(model, tag):
        return {}
    weights = zoo.pretrained(model, _clean(tag))
    repo = weights.hf_hub or ""
    cfg = {
        "url": weights.url or "",
        "hf_hub": repo + "/" if repo.count("/") == 1 else repo,  # a slash behind it: the usual file's name
        "mean": weights.mean,
        "std": weights.std,
        "interpolation": weights.interpolation,
        "resize_mode": weights.resize_mode,
    }
    return cfg if weights.quick_gelu is None else {**cfg, "quick_gelu": weights.quick_gelu}


def get_pretrained_url(model: str, tag: str) -> str:
    """Where weights can be fetched over HTTP; "" if they lie on the hub only, or are not known."""
    url: str = get_pretrained_cfg(model, tag).get("url", "")
    return url


def download_pretrained(
    cfg: Mapping[str, Any], prefer_hf_hub: bool = True, cache_dir: str | None = None
) -> str:
    """Fetch weights, or find them on this machine.

    Args:
        cfg: what `get_pretrained_cfg` gives; or {"file": path}, which is that path.
        prefer_hf_hub: take the hub's copy where there are two, except of OpenAI's files, whose address holds their
            whole checksum.
        cache_dir: where they are kept.

    Returns:
        The file's path; "" for an empty `cfg`.

    Raises:
        DownloadError: if they cannot be fetched.
    """
    if "file" in cfg:
        return str(cfg["file"])
    url, repo = cfg.get("url", ""), cfg.get("hf_hub", "").rstrip("/")
    if not url and not repo:
        return ""
    if url and not prefer_hf_hub:
        repo = ""
    return os.fspath(hub.fetch_weights(Pretrained("", "", url or None, repo or None), cache_dir))


def download_pretrained_from_url(url: str, cache_dir: str | None = None) -> str:
    """Fetch a file over HTTP, check it against the checksum in its address if there is one, and give its path.

    Raises:
        DownloadError: if it cannot be fetched; ChecksumError if it is another file.
    """
    return os.fspath(
        hub.download(url, cache_dir or hub.cache_folder(), sha256=Pretrained("", "", url).sha256)
    )


def download_pretrained_from_hf(
    model_id: str, filename: str | None = None, revision: str | None = None, cache_dir: str | None = None
) -> str:
    """Fetch a file of a repository of the hub, its weights by default, and give its path.

    For a file of pickled weights the `.safetensors` beside it is taken if there is one.

    Raises:
        DownloadError: if it cannot be fetched.
    """
    names: tuple[str, ...] = hub.HUB_WEIGHTS
    if filename and filename not in hub.HUB_WEIGHTS:
        stem, suffix = os.path.splitext(filename)
        names = (f"{stem}.safetensors", filename) if suffix in (".bin", ".pth") else (filename,)
    return os.fspath(hub.hub_file(model_id, names, revision=revision, cache_dir=cache_dir))


def weights_of(model: str, tag: str) -> Pretrained:
    """The facts of weights by architecture and tag.

    Raises:
        UnknownModelError: if an architecture of the zoo has no such weights; the message has those it has.
    """
    if is_pretrained_cfg(model, tag):
        return zoo.pretrained(model, _clean(tag))
    known = list_pretrained_tags_by_model(model)
    hint = f"It is no file either. Tags: {', '.join(known) or 'none'}."
    raise UnknownModelError(tag, known, kind=f"tag of {model}", hint=hint)


def _clean(tag: str) -> str:
    return tag.lower().replace("-", "_")


_PRETRAINED: Mapping[str, Mapping[str, dict[str, Any]]] = (
    MappingProxyType(  # to be read: adding to it is an error
        {
            model: MappingProxyType(
                {tag: get_pretrained_cfg(model, tag) for tag in list_pretrained_tags_by_model(model)}
            )
            for model in dict.fromkeys(model for model, _ in zoo.published())
        }
    )
)
