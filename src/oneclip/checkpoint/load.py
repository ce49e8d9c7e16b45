"""A name to a model with its weights, and the facts that belong to them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from oneclip import hub, zoo
from oneclip.checkpoint.blank import build_blank
from oneclip.checkpoint.match import load_into
from oneclip.checkpoint.openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.read import Checkpoint, read
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError, UnknownModelError
from oneclip.text import get_tokenizer
from oneclip.zoo.resolve import HUB_PREFIX

if TYPE_CHECKING:
    from oneclip.text import Tokenizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FOLDER_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, in evaluation mode, and the facts that travel with them.

    Attributes:
        model: what `build_model` makes of `cfg`.
        cfg: what the model was built of.
        preprocess_cfg: how a picture becomes a tensor for it.
        name: what it was loaded by.
        home: the folder that it came from, or the repository as "hf-hub:owner/name[/subfolder][@revision]";
            its tokenizer may lie there. None where a file came by itself.
        cache_dir: where downloads are kept, instead of the usual folders.
    """

    model: nn.Module
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    name: str
    home: str | Path | None = None
    cache_dir: str | os.PathLike[str] | None = None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the model was trained with, made at each call.

        Raises:
            ConfigError: for options that the tokenizer does not have.
            DownloadError: if its files are not on this machine and cannot be fetched.
            MissingExtraError: if it needs a package that is not installed.
        """
        return get_tokenizer(self.cfg.text_cfg, self.home, self.cache_dir)


@dataclass(frozen=True)
class Described:
    """A checkpoint and what is known about it: what `load` builds a model of."""

    checkpoint: Checkpoint
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    path: Path


def load(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    precision: str = "fp32",
    cache_dir: str | os.PathLike[str] | None = None,
    quick_gelu: bool | None = None,
) -> Loaded:
    """Load a model by name.

    Args:
        name: what `zoo.resolve` understands.
        device: where to put it; the first CUDA device if there is one, else the CPU.
        precision: "fp32", "bf16" or "fp16", of all its floating-point weights.
        cache_dir: where downloads are kept, instead of the usual folders.
        quick_gelu: the activation that the weights were trained with, for files that do not say it.

    Raises:
        UnknownModelError: for a name that means nothing.
        AmbiguousModelError: for weights whose activation or preprocessing cannot be known.
        ConfigError: for a precision that is none, or a file that contradicts the architecture it is loaded
            as.
        CheckpointError: for a file that is damaged or does not fit.
        DownloadError: for a file that cannot be fetched.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r} and must be one of {', '.join(PRECISIONS)}")
    source = zoo.resolve(name)
    found = describe(source, cache_dir, quick_gelu)
    model = build_blank(found.cfg)
    load_into(model, found.checkpoint.state_dict, source=str(found.path))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device=device, dtype=PRECISIONS[precision]).eval()
    return Loaded(model, found.cfg, found.preprocess_cfg, source.name, _home(source, found.path), cache_dir)


def _home(source: zoo.Source, path: Path) -> str | Path | None:
    """Where the weights came from: a place that may hold their tokenizer too."""
    if source.kind == "hub":
        subfolder = f"/{source.subfolder}" if source.subfolder else ""
        revision = f"@{source.revision}" if source.revision else ""
        return f"{HUB_PREFIX}{source.repo}{subfolder}{revision}"
    if source.pretrained is not None and source.pretrained.hf_hub is not None:
        return HUB_PREFIX + "/".join(source.pretrained.hf_hub.strip("/").split("/")[:2])
    return path.parent if source.kind in ("file", "folder") else None


def describe(
    source: zoo.Source,
    cache_dir: str | os.PathLike[str] | None = None,
    quick_gelu: bool | None = None,
) -> Described:
    """Get the file that a name means, and what is known about it; the arguments and errors are those of `load`."""
    match source:
        case zoo.Source(kind="pretrained", architecture=str(arch), pretrained=zoo.Pretrained() as weights):
            return _of_published(arch, weights, hub.fetch_weights(weights, cache_dir))
        case zoo.Source(kind="architecture-file", architecture=str(arch), path=Path() as path):
            return _of_architecture(arch, path)
        case zoo.Source(kind="pocket", path=Path() as path):
            if not path.is_file():
                raise UnknownModelError("pocket", hint=f"This installation lacks its weights ({path}).")
            return _of_file(path)
        case zoo.Source(kind="file", path=Path() as path):
            return _of_file(path, quick_gelu)
        case zoo.Source(kind="folder", path=Path() as path):
            return _of_folder(path)
        case zoo.Source(kind="hub", repo=str(repo)):
            where = {"subfolder": source.subfolder, "revision": source.revision, "cache_dir": cache_dir}
            config = hub.hub_file(repo, FOLDER_CONFIG, **where)  # type: ignore[arg-type]
            return _of_config(config, hub.hub_file(repo, **where))  # type: ignore[arg-type]
    raise UnknownModelError(source.name)


def _of_published(arch: str, weights: zoo.Pretrained, path: Path) -> Described:
    cfg = zoo.architecture(arch)
    if weights.quick_gelu is not None:
        cfg = replace(cfg, quick_gelu=weights.quick_gelu)
    return Described(read(path), cfg, weights.preprocess_cfg(cfg.vision_cfg.image_size), path)


def _of_architecture(arch: str, path: Path) -> Described:
    """A file for an architecture that the caller named; what the file says itself must not contradict it."""
    checkpoint, cfg, preprocess_cfg = read(path), zoo.architecture(arch), zoo.preprocess_of(arch)
    said = _said_by(checkpoint)
    activation = said[0].quick_gelu if said else _script_has_quick_gelu(checkpoint)
    if activation is not None and activation != cfg.quick_gelu:
        activations = {True: "QuickGELU", False: "GELU"}
        raise ConfigError(
            f"{path} has {activations[activation]}, and {arch} has {activations[cfg.quick_gelu]}: "
            f"load it as {path}, or as {_twin(arch, activation)}:{path}"
        )
    return Described(checkpoint, cfg, said[1] if said else preprocess_cfg, path)


def _of_file(path: Path, quick_gelu: bool | None = None) -> Described:
    """A file that has to say itself what it is."""
    checkpoint = read(path)
    if said := _said_by(checkpoint):
        return Described(checkpoint, *said, path)
    if (path.parent / FOLDER_CONFIG).is_file() and path.name in hub.HUB_WEIGHTS:
        return _of_config(path.parent / FOLDER_CONFIG, path)
    ways = (
        f"name its architecture, as in ViT-B-32:{path} (or ViT-B-32-quickgelu:{path} for QuickGELU); "
        f"or use clip.load({str(path)!r}) if it is of OpenAI's form, which takes it to have QuickGELU"
    )
    if quick_gelu is not None and looks_like_openai(checkpoint.state_dict):
        cfg = replace(_inferred(checkpoint, path), quick_gelu=quick_gelu)
        return Described(checkpoint, cfg, PreprocessCfg(size=cfg.vision_cfg.image_size), path)
    if checkpoint.format != "torchscript":
        raise AmbiguousModelError(f"{path} does not say which activation it was trained with: {ways}")
    if not _script_has_quick_gelu(checkpoint):
        raise AmbiguousModelError(f"{path} is a TorchScript archive, but not with OpenAI's QuickGELU: {ways}")
    cfg = _inferred(checkpoint, path)
    return Described(checkpoint, cfg, PreprocessCfg(size=cfg.vision_cfg.image_size), path)


def _of_folder(folder: Path) -> Described:
    """A folder with a configuration in the form of open_clip's, and weights."""
    config = folder / FOLDER_CONFIG
    if not config.is_file():
        raise AmbiguousModelError(
            f"{folder} has no {FOLDER_CONFIG} and so does not say what its weights are; name their "
            f"architecture and their file, as in ViT-B-32:{folder / hub.HUB_WEIGHTS[0]}"
        )
    weights = [folder / name for name in hub.HUB_WEIGHTS if (folder / name).is_file()]
    weights = weights or sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"{folder} holds no weights: {' or '.join(hub.HUB_WEIGHTS)} was expected in it")
    if len(weights) > 1 and weights[0].name not in hub.HUB_WEIGHTS:
        raise AmbiguousModelError(f"{folder} holds several files of weights; call one {hub.HUB_WEIGHTS[0]}")
    return _of_config(config, weights[0])


def _of_config(config: Path, weights: Path) -> Described:
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{config} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("model_cfg"), dict):
        raise CheckpointError(f"{config} has no model_cfg")
    return Described(read(weights), *_configs(content, config), weights)


def _said_by(checkpoint: Checkpoint) -> tuple[ModelCfg, PreprocessCfg] | None:
    """The configurations that a file carries, if it does."""
    if not isinstance(checkpoint.metadata.get("model_cfg"), dict):
        return None
    return _configs(checkpoint.metadata, "the metadata of the checkpoint")


def _configs(content: Mapping[str, Any], source: object) -> tuple[ModelCfg, PreprocessCfg]:
    """`model_cfg` and `preprocess_cfg` as dicts to configurations; the size of pictures is the model's if
    not given."""
    try:
        cfg = ModelCfg.from_dict(content["model_cfg"])
        pixels = {"size": cfg.vision_cfg.image_size} | dict(content.get("preprocess_cfg") or {})
        return cfg, PreprocessCfg.from_dict(pixels)
    except (ConfigError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{source} describes no model: {error}") from error


def _script_has_quick_gelu(checkpoint: Checkpoint) -> bool | None:
    """Whether a TorchScript archive was trained with QuickGELU, as OpenAI's were; None for other files."""
    return checkpoint.metadata.get("activation") != "gelu" if checkpoint.format == "torchscript" else None


def _inferred(checkpoint: Checkpoint, path: Path) -> ModelCfg:
    if not looks_like_openai(checkpoint.state_dict):
        raise CheckpointError(f"{path} is a TorchScript archive, but not of a model in the form of OpenAI's")
    try:
        return infer_openai_config(checkpoint.state_dict)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _twin(arch: str, quick_gelu: bool) -> str:
    """The same architecture with the other activation, by the names that these pairs have."""
    twin = f"{arch}-quickgelu" if quick_gelu else arch.removesuffix("-quickgelu")
    return twin if twin in zoo.architectures() else "ARCHITECTURE"
