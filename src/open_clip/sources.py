"""Resolve `model_name` and `pretrained` to a configuration, preprocessing and weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from oneclip import checkpoint, hub, zoo
from oneclip.config import PreprocessCfg
from oneclip.errors import UnknownModelError
from open_clip.architectures import _MODEL_CONFIGS, architecture_name, known_config
from open_clip.constants import HF_CONFIG_NAME
from open_clip.pretrained import (
    get_pretrained_cfg,
    is_pretrained_cfg,
    list_pretrained_tags_by_model,
    weights_of,
)


@dataclass
class ResolvedModel:
    """Configuration and weights of a model.

    Attributes:
        model_cfg: in the format of `open_clip_config.json`.
        preprocess_cfg: the fields of `PreprocessCfg`.
        path: file of the weights; None for random weights.
        state_dict: tensors of the file, with our names.
    """

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    path: Path | None = None
    state_dict: Mapping[str, Tensor] | None = None


def parse_model_name(model_name: str) -> tuple[str | None, str]:
    """Split a name into its prefix ("hf-hub", "local-dir" or None) and the rest.

    Raises:
        ValueError: if the rest is empty.
    """
    for prefix in (zoo.FOLDER_PREFIX, zoo.HUB_PREFIX):
        if model_name.startswith(prefix):
            rest = model_name.removeprefix(prefix)
            if not rest:
                raise ValueError(
                    f"{model_name!r} is incomplete; expected {prefix} followed by a repository or folder"
                )
            return prefix.rstrip(":"), rest
    return None, model_name


def resolve_model(
    model_name: str, pretrained: str | os.PathLike[str] | None, cache_dir: str | None, weights: bool = True
) -> ResolvedModel:
    """Resolve names to a configuration and weights, and download them.

    Args:
        model_name: an architecture; a repository or folder (`hf-hub:`, `local-dir:`); or another name for
            `oneclip.load`.
        pretrained: for an architecture, a tag or a file.
        cache_dir: folder for downloads.
        weights: also download and read the weights.

    Raises:
        UnknownModelError, AmbiguousModelError, CheckpointError, DownloadError: as `oneclip.load`.
    """
    name = architecture_name(model_name)
    if name is None:
        return _from_location(model_name, cache_dir)
    pretrained = os.fspath(pretrained) if pretrained else ""
    if is_pretrained_cfg(name, pretrained):
        return _from_tag(name, pretrained, cache_dir, weights)
    if pretrained and not os.path.isfile(pretrained):
        weights_of(name, pretrained)  # raises, and suggests similar tags
    if pretrained and weights:
        return _from_file(name, Path(pretrained))
    return ResolvedModel(known_config(name), _default_preprocess(name))


def raise_no_weights(model_name: str, pretrained: str | None) -> NoReturn:
    """Raise an error for a model that requires weights but has none.

    Raises:
        UnknownModelError: always; the message lists the available tags.
    """
    name = architecture_name(model_name) or model_name
    known = list_pretrained_tags_by_model(name)
    if pretrained:
        raise UnknownModelError(pretrained, kind=f"source of weights for {name} when load_weights is False")
    weights = (
        f"a file, or one of its tags: {', '.join(known)}" if known else "a file (no weights are published)"
    )
    raise UnknownModelError(
        name, kind="name of weights", hint=f"It is an architecture; set pretrained= to {weights}."
    )


def read_config(source: zoo.ModelSource, cache_dir: str | None = None) -> dict[str, Any]:
    """Read the `open_clip_config.json` of a folder or repository.

    Raises:
        UnknownModelError, DownloadError: if it does not exist.
        CheckpointError: if it is not a JSON object.
    """
    if source.kind == "hub" and source.repo:
        where: dict[str, Any] = {
            "subfolder": source.subfolder,
            "revision": source.revision,
            "cache_dir": cache_dir,
        }
        path = hub.hub_file(source.repo, HF_CONFIG_NAME, **where)
    elif source.kind == "folder" and source.path:
        path = source.path / HF_CONFIG_NAME
        if not path.is_file():
            raise UnknownModelError(str(path), kind="file", hint="The folder has no model configuration.")
    else:
        raise UnknownModelError(source.name, kind="folder or repository")
    return hub.read_json(path)


def _from_tag(name: str, tag: str, cache_dir: str | None, weights: bool) -> ResolvedModel:
    """Resolve published weights; their metadata determines the activation."""
    model_cfg, facts = known_config(name), weights_of(name, tag)
    if facts.quick_gelu is not None:
        model_cfg["quick_gelu"] = facts.quick_gelu
    size = model_cfg["vision_cfg"].get("image_size", PreprocessCfg().size)
    found = ResolvedModel(model_cfg, _fields(facts.preprocess_cfg(size)))
    if weights:
        file = get_pretrained_cfg(name, tag).get("file")  # for entries that a program added
        source = (
            zoo.ModelSource(file, "file", path=Path(file))
            if file
            else zoo.ModelSource(f"{name}:{tag}", "pretrained", architecture=name, pretrained=facts)
        )
        read = checkpoint.gather_evidence(source, cache_dir=cache_dir)
        found.path, found.state_dict = read.path, read.checkpoint.state_dict
    return found


def _from_file(name: str, path: Path) -> ResolvedModel:
    """Resolve a file for an architecture; its metadata may contain activation and preprocessing."""
    read = checkpoint.gather_evidence(zoo.ModelSource(str(path), "file", path=path))
    model_cfg, preprocess_cfg = known_config(name), _default_preprocess(name)
    if len({stated.quick_gelu for stated in read.activation}) > 1:
        checkpoint.resolve_evidence(read)  # raises, and names the contradicting sources
    if read.activation:
        model_cfg["quick_gelu"] = read.activation[0].quick_gelu
    if read.preprocess_cfg is not None:
        preprocess_cfg = _fields(read.preprocess_cfg)
    return ResolvedModel(model_cfg, preprocess_cfg, path, read.checkpoint.state_dict)


def _from_location(model_name: str, cache_dir: str | None) -> ResolvedModel:
    """Resolve a repository, folder or other name that includes a configuration."""
    try:
        source = zoo.resolve(model_name)
    except UnknownModelError as error:
        if parse_model_name(model_name)[0] or ":" in model_name:
            raise
        raise UnknownModelError(
            model_name, _MODEL_CONFIGS, kind="model", hint="open_clip.list_models() lists all architectures."
        ) from error
    described = checkpoint.resolve_checkpoint(source, cache_dir)
    checkpoint.check_size(described)
    return ResolvedModel(
        described.cfg.to_dict(),
        _fields(described.preprocess_cfg),
        described.path,
        described.checkpoint.state_dict,
    )


def _default_preprocess(name: str) -> dict[str, Any]:
    """Return the preprocessing for weights without metadata, by architecture."""
    known = name in zoo.architectures() and list_pretrained_tags_by_model(name)
    return _fields(zoo.preprocess_of(name) if known else PreprocessCfg())


def _fields(cfg: PreprocessCfg) -> dict[str, Any]:
    """Return all fields as a dict, without an empty background: published configurations have no such field."""
    values = asdict(cfg)
    if values["background"] is None:
        del values["background"]
    return values
