"""What `model_name` and `pretrained` mean, to a configuration, a preprocessing and a file of weights."""

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

HUB, FOLDER = "hf-hub:", "local-dir:"


@dataclass
class Found:
    """What a pair of names means.

    Attributes:
        model_cfg: the configuration, as `open_clip_config.json` files hold it.
        preprocess_cfg: the fields of `PreprocessCfg`.
        path: the file of weights; None for random ones.
        state_dict: its tensors, by the names of models here.
    """

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    path: Path | None = None
    state_dict: Mapping[str, Tensor] | None = None


def parse_model_name(model_name: str) -> tuple[str | None, str]:
    """A name to ("hf-hub" or "local-dir" or None, what follows).

    Raises:
        ValueError: if nothing follows.
    """
    for prefix in (FOLDER, HUB):
        if model_name.startswith(prefix):
            rest = model_name.removeprefix(prefix)
            if not rest:
                raise ValueError(f"{model_name!r} names nothing: {prefix} and then a place was expected")
            return prefix.rstrip(":"), rest
    return None, model_name


def find(
    model_name: str, pretrained: str | os.PathLike[str] | None, cache_dir: str | None, weights: bool = True
) -> Found:
    """Find out what is meant, and fetch it.

    Args:
        model_name: an architecture; or a place that says what it holds (`hf-hub:`, `local-dir:`), or another name of
            weights that `oneclip.load` takes.
        pretrained: for an architecture, a tag or a file.
        cache_dir: where downloads are kept.
        weights: whether the weights are wanted too.

    Raises:
        UnknownModelError, AmbiguousModelError, CheckpointError, DownloadError: as `oneclip.load`.
    """
    name = architecture_name(model_name)
    if name is None:
        return _of_place(model_name, cache_dir)
    pretrained = os.fspath(pretrained) if pretrained else ""
    if is_pretrained_cfg(name, pretrained):
        return _of_tag(name, pretrained, cache_dir, weights)
    if pretrained and not os.path.isfile(pretrained):
        weights_of(name, pretrained)  # raises, with the nearest tags
    if pretrained and weights:
        return _of_file(name, Path(pretrained))
    return Found(known_config(name), _preprocess_of(name))


def refuse_random(model_name: str, pretrained: str | None) -> NoReturn:
    """Say why a model that has to have weights would have none.

    Raises:
        UnknownModelError: always; the message has the tags there are.
    """
    name = architecture_name(model_name) or model_name
    known = list_pretrained_tags_by_model(name)
    if pretrained:
        raise UnknownModelError(pretrained, kind=f"source of weights for {name} when load_weights is False")
    weights = f"a file, or one of its tags: {', '.join(known)}" if known else "a file: none are published"
    raise UnknownModelError(
        name, kind="name of weights", hint=f"It is an architecture: give pretrained= {weights}."
    )


def read_config(source: zoo.Source, cache_dir: str | None = None) -> dict[str, Any]:
    """What the `open_clip_config.json` of a folder or of a repository holds.

    Raises:
        UnknownModelError, DownloadError: if there is none.
        CheckpointError: if it is no JSON object.
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
            raise UnknownModelError(str(path), kind="file", hint="The folder does not say what it holds.")
    else:
        raise UnknownModelError(source.name, kind="folder or repository")
    return hub.read_json(path)


def _of_tag(name: str, tag: str, cache_dir: str | None, weights: bool) -> Found:
    """Published weights; they know which activation they were trained with."""
    model_cfg, facts = known_config(name), weights_of(name, tag)
    if facts.quick_gelu is not None:
        model_cfg["quick_gelu"] = facts.quick_gelu
    size = model_cfg["vision_cfg"].get("image_size", PreprocessCfg().size)
    found = Found(model_cfg, _fields(facts.preprocess_cfg(size)))
    if weights:
        file = get_pretrained_cfg(name, tag).get("file")  # of weights that a program added
        source = (
            zoo.Source(file, "file", path=Path(file))
            if file
            else zoo.Source(f"{name}:{tag}", "pretrained", architecture=name, pretrained=facts)
        )
        read = checkpoint.examine(source, cache_dir=cache_dir)
        found.path, found.state_dict = read.path, read.checkpoint.state_dict
    return found


def _of_file(name: str, path: Path) -> Found:
    """A file for an architecture; it may know the activation and the preprocessing of its weights."""
    read = checkpoint.examine(zoo.Source(str(path), "file", path=path))
    model_cfg, preprocess_cfg = known_config(name), _preprocess_of(name)
    if len({claim.quick_gelu for claim in read.claims}) > 1:
        checkpoint.settled(read)  # raises, and says who contradicts whom
    if read.claims:
        model_cfg["quick_gelu"] = read.claims[0].quick_gelu
    if read.preprocess_cfg is not None:
        preprocess_cfg = _fields(read.preprocess_cfg)
    return Found(model_cfg, preprocess_cfg, path, read.checkpoint.state_dict)


def _of_place(model_name: str, cache_dir: str | None) -> Found:
    """A name of weights that say what they are."""
    try:
        source = zoo.resolve(model_name)
    except UnknownModelError as error:
        if parse_model_name(model_name)[0] or ":" in model_name:
            raise
        raise UnknownModelError(
            model_name, _MODEL_CONFIGS, kind="model", hint="open_clip.list_models() has all architectures."
        ) from error
    described = checkpoint.describe(source, cache_dir)
    checkpoint.check_size(described)
    return Found(
        described.cfg.to_dict(),
        _fields(described.preprocess_cfg),
        described.path,
        described.checkpoint.state_dict,
    )


def _preprocess_of(name: str) -> dict[str, Any]:
    """How pictures are prepared for weights of an architecture that say nothing themselves."""
    known = name in zoo.architectures() and list_pretrained_tags_by_model(name)
    return _fields(zoo.preprocess_of(name) if known else PreprocessCfg())


def _fields(cfg: PreprocessCfg) -> dict[str, Any]:
    """Every field; a background only where there is one, since published configurations know none."""
    values = asdict(cfg)
    if values["background"] is None:
        del values["background"]
    return values
