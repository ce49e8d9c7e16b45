"""`open_clip.pretrained`: table of pretrained weights, and their download."""

from __future__ import annotations

import copy
import os
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from oneclip import hub, zoo
from oneclip.errors import ChecksumError, UnknownModelError
from oneclip.zoo import Pretrained
from open_clip.constants import (
    HF_SAFE_WEIGHTS_NAME,
    HF_WEIGHTS_NAME,
    IMAGENET_MEAN,
    IMAGENET_STD,
    INCEPTION_MEAN,
    INCEPTION_STD,
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
)
from open_clip.version import __version__

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


_has_hf_hub = _has_safetensors = True  # OneCLIP depends on both
Cfg = dict[str, Any]


def _cfg_with(
    mean: tuple[float, ...], std: tuple[float, ...], interpolation: str, resize_mode: str
) -> Callable[..., Cfg]:
    """Make a function that creates table entries of weights with this preprocessing."""

    def cfg(url: str = "", hf_hub: str = "", **kwargs: Any) -> Cfg:
        images = {"mean": mean, "std": std, "interpolation": interpolation, "resize_mode": resize_mode}
        return {"url": url, "hf_hub": hf_hub, **images, **kwargs}

    return cfg


_pcfg = _cfg_with(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, "bicubic", "shortest")  # OpenAI's, and most others
_slpcfg = _cfg_with(INCEPTION_MEAN, INCEPTION_STD, "bicubic", "squash")  # SigLIP
_apcfg = _cfg_with(IMAGENET_MEAN, IMAGENET_STD, "bilinear", "squash")  # CLIPA
_mccfg = _cfg_with((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear", "shortest")  # MobileCLIP
_mc2cfg = _cfg_with(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, "bilinear", "shortest")  # MobileCLIP 2
_pecfg = _cfg_with((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")  # Perception Encoder


def _published(weights: Pretrained) -> Cfg:
    """Make the published table entry of weights in the zoo."""
    repo = weights.hf_hub or ""
    cfg = _pcfg(
        url=weights.url or "",
        hf_hub=repo + "/" if repo.count("/") == 1 else repo,  # a slash at the end means the default file name
        mean=weights.mean,
        std=weights.std,
        interpolation=weights.interpolation,
        resize_mode=weights.resize_mode,
    )
    return cfg if weights.quick_gelu is None else {**cfg, "quick_gelu": weights.quick_gelu}


_PRETRAINED: dict[str, dict[str, Cfg]] = {}
"""Location and preprocessing of weights by architecture and tag; programs may add to it."""
for _name, _tag in zoo.all_pretrained():
    if _name.removesuffix("-quickgelu") == _name:
        _PRETRAINED.setdefault(_name, {})[_tag] = _published(zoo.pretrained(_name, _tag))

_PRETRAINED_quickgelu: dict[str, dict[str, Cfg]] = {}
for k, v in _PRETRAINED.items():
    quick_gelu_tags = {}
    for tk, tv in v.items():
        if tv.get("quick_gelu"):
            quick_gelu_tags[tk] = copy.deepcopy(tv)
    if quick_gelu_tags:
        _PRETRAINED_quickgelu[f"{k}-quickgelu"] = quick_gelu_tags
_PRETRAINED.update(_PRETRAINED_quickgelu)

# parts of the table, under the names of the published module
_RN50, _RN101, _RN50x4 = (_PRETRAINED[name] for name in ("RN50", "RN101", "RN50x4"))
_RN50x16, _RN50x64 = (_PRETRAINED[name] for name in ("RN50x16", "RN50x64"))
_VITB32, _VITB32_256 = (_PRETRAINED[name] for name in ("ViT-B-32", "ViT-B-32-256"))
_VITB16, _VITB16_PLUS_240 = (_PRETRAINED[name] for name in ("ViT-B-16", "ViT-B-16-plus-240"))
_VITL14, _VITL14_336 = (_PRETRAINED[name] for name in ("ViT-L-14", "ViT-L-14-336"))
_VITH14, _VITH14_378 = (_PRETRAINED[name] for name in ("ViT-H-14", "ViT-H-14-378"))
_VITg14, _VITbigG14 = (_PRETRAINED[name] for name in ("ViT-g-14", "ViT-bigG-14"))
_robertaViTB32 = _PRETRAINED["roberta-ViT-B-32"]
_xlmRobertaBaseViTB32 = _PRETRAINED["xlm-roberta-base-ViT-B-32"]
_xlmRobertaLargeFrozenViTH14 = _PRETRAINED["xlm-roberta-large-ViT-H-14"]
_convnext_base = _PRETRAINED["convnext_base"]
_convnext_base_w, _convnext_base_w_320 = (_PRETRAINED[f"convnext_base_w{size}"] for size in ("", "_320"))
_convnext_large_d, _convnext_large_d_320 = (_PRETRAINED[f"convnext_large_d{size}"] for size in ("", "_320"))
_convnext_xxlarge = _PRETRAINED["convnext_xxlarge"]
_coca_VITB32, _coca_VITL14 = (_PRETRAINED[name] for name in ("coca_ViT-B-32", "coca_ViT-L-14"))


def __getattr__(name: str) -> Any:
    """Resolve `hf_hub_download`, so that huggingface_hub is only imported when it is used."""
    if name != "hf_hub_download":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from huggingface_hub import hf_hub_download

    return partial(hf_hub_download, library_name="open_clip", library_version=__version__)


def _clean_tag(tag: str) -> str:
    """Normalize the spelling of a tag."""
    return tag.lower().replace("-", "_")


def list_pretrained(as_str: bool = False) -> list[Any]:
    """List all pretrained weights as (architecture, tag), or as "architecture:tag"."""
    pairs = [(model, tag) for model, tags in _PRETRAINED.items() for tag in tags]
    return [":".join(pair) if as_str else pair for pair in pairs]


def list_pretrained_models_by_tag(tag: str) -> list[str]:
    """List the architectures that have weights with this tag."""
    return [model for model, tags in _PRETRAINED.items() if _clean_tag(tag) in tags]


def list_pretrained_tags_by_model(model: str) -> list[str]:
    """List the tags of an architecture; empty for an unknown name."""
    return list(_PRETRAINED.get(model, ()))


def is_pretrained_cfg(model: str, tag: str) -> bool:
    """Return whether an architecture has weights with this tag."""
    return _clean_tag(tag) in _PRETRAINED.get(model, ())


def get_pretrained_cfg(model: str, tag: str) -> Cfg:
    """Return location and preprocessing of weights; {} for an unknown name or tag."""
    return _PRETRAINED.get(model, {}).get(_clean_tag(tag), {})


def get_pretrained_url(model: str, tag: str) -> str:
    """Return the URL of weights; "" if they are only on the Hugging Face hub, or unknown."""
    url: str = get_pretrained_cfg(model, tag).get("url", "")
    return url


def download_pretrained(
    cfg: Mapping[str, Any], prefer_hf_hub: bool = True, cache_dir: str | None = None
) -> str:
    """Download weights, or find them in the cache.

    Args:
        cfg: an entry returned by `get_pretrained_cfg`, or {"file": path} for a local file.
        prefer_hf_hub: download from the hub rather than the URL, if both exist. OpenAI's files always use the URL,
            which contains their full checksum.
        cache_dir: folder for downloads.

    Returns:
        The path of the file; "" for an empty `cfg`.

    Raises:
        DownloadError: if they cannot be downloaded.
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
    """Download a file, verify the checksum in its URL if there is one, and return its path.

    Raises:
        DownloadError: if it cannot be downloaded.
        ChecksumError: if the checksum does not match.
    """
    try:
        path = hub.download(
            url,
            cache_dir or hub.cache_folder(),
            sha256=Pretrained("", "", url).sha256,
            urlopen=urllib.request.urlopen,  # resolved at each call, because programs patch it
        )
    except ChecksumError as error:  # programs look for the published message
        raise ChecksumError(f"{error} (the SHA256 checksum does not not match)") from error
    return os.fspath(path)


def has_hf_hub(necessary: bool = False) -> bool:
    """Return True: huggingface_hub is always installed."""
    return _has_hf_hub


def _get_safe_alternatives(filename: str) -> Iterator[str]:
    """Yield the name of the safetensors file that may exist beside a file of pickled weights."""
    if filename == HF_WEIGHTS_NAME:
        yield HF_SAFE_WEIGHTS_NAME
    elif filename.endswith((".bin", ".pth")):
        yield os.path.splitext(filename)[0] + ".safetensors"


def download_pretrained_from_hf(
    model_id: str, filename: str | None = None, revision: str | None = None, cache_dir: str | None = None
) -> str:
    """Download a file of a hub repository, its weights by default, and return its path.

    If a `.safetensors` file exists beside a file of pickled weights, it is downloaded instead.

    Raises:
        DownloadError: if it cannot be downloaded.
    """
    filename = filename or HF_WEIGHTS_NAME
    names = (*_get_safe_alternatives(filename), filename)
    return os.fspath(hub.hub_file(model_id, names, revision=revision, cache_dir=cache_dir))


def weights_of(model: str, tag: str) -> Pretrained:
    """Return the metadata of weights by architecture and tag.

    Raises:
        UnknownModelError: if the table has no such weights; the message lists the tags of the architecture.
    """
    if cfg := get_pretrained_cfg(model, tag):
        facts = ("mean", "std", "interpolation", "resize_mode", "quick_gelu")
        return Pretrained(
            model,
            _clean_tag(tag),
            cfg.get("url") or None,
            cfg.get("hf_hub", "").rstrip("/") or None,
            **{key: cfg[key] for key in facts if key in cfg},
        )
    known = list_pretrained_tags_by_model(model)
    hint = f"It is not a file either. Tags: {', '.join(known) or 'none'}."
    raise UnknownModelError(tag, known, kind=f"tag of {model}", hint=hint)
