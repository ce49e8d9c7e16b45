"""A name to the tensors it stands for and to everything that is said about them; no model is built.

Who may say what a model is: the file's own metadata, a configuration beside it, the code of a TorchScript archive,
the published weights that a file is known to be.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oneclip import hub, zoo
from oneclip.checkpoint.formats import Format, recognise
from oneclip.checkpoint.readers.read import Checkpoint, is_sharded, read
from oneclip.checkpoint.readers.read_errors import explained
from oneclip.checkpoint.readers.torch_zip import NOT_WEIGHTS
from oneclip.checkpoint.readers.wrappers import model_in
from oneclip.checkpoint.resolve import identify_published
from oneclip.checkpoint.resolve.attention_heads import TOWERS, heads_of
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.resolve.locations import (
    CONFIG,
    PIXELS,
    THEIR_CONFIG,
    THEIR_WEIGHTS,
    WEIGHTS,
    Folder,
    Place,
    Repository,
)
from oneclip.checkpoint.resolve.sentence_transformers import clip_subfolder
from oneclip.checkpoint.resolve.text_tower_config import find_text_tower
from oneclip.checkpoint.resolve.unsupported_files import OTHER_FOLDERS, what_it_is
from oneclip.checkpoint.resolve.validate_config import check_cfg
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError, UnknownModelError
from oneclip.hub import read_json
from oneclip.text.clip.clip_vocab import is_clips_own
from oneclip.text.factory import BESIDE
from oneclip.text.hf.tokenizer_files import VOCABULARIES

OWN_METADATA = "its own metadata"
VOCABULARY_FILES = tuple(names[0] for names in VOCABULARIES)


@dataclass(frozen=True)
class Claim:
    """What something says about the activation.

    Attributes:
        quick_gelu: whether it is QuickGELU.
        by: who says so, as the end of "known by …".
    """

    quick_gelu: bool
    by: str


@dataclass(frozen=True)
class Examined:
    """A checkpoint and everything that is said about it, contradictions included.

    Attributes:
        checkpoint: its tensors by our names.
        path: of the file, or of the index of its shards.
        format: what kind of checkpoint it is, for people.
        home: where its tokenizer may lie, as in `Loaded`.
        architecture: what it was named as, or is known to be.
        cfg: what the model is, if that is said; its activation counts only if it is among the claims.
        preprocess_cfg: how a picture becomes a tensor for it, if that is said.
        claims: what is said about the activation, the weightiest first.
        bare: whether nothing but the architecture named says what the model is.
    """

    checkpoint: Checkpoint
    path: Path
    format: str
    home: str | Path | None = None
    architecture: str | None = None
    cfg: ModelCfg | None = None
    preprocess_cfg: PreprocessCfg | None = None
    claims: tuple[Claim, ...] = field(default_factory=tuple)
    bare: bool = False


@dataclass(frozen=True)
class _Reading:
    """How files are read: with their values or without, which tensors of a training checkpoint, from which cache."""

    values: bool = True
    part: str | None = None
    prefix: str | None = None
    cache_dir: str | os.PathLike[str] | None = None


def examine(
    source: zoo.Source,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    part: str | None = None,
    prefix: str | None = None,
    values: bool = True,
) -> Examined:
    """Get the file that a name means, and everything that is said about it.

    Args:
        source: what `zoo.resolve` made of the name.
        cache_dir: where downloads are kept, instead of the usual folders.
        part: as in `read`.
        prefix: what stands before the names of the model's tensors; by default it is looked for.
        values: False to read only what describes the tensors, which are then on the meta device.

    Raises:
        UnknownModelError, AmbiguousModelError: if there is no such file, or no telling which.
        CheckpointError, ConfigError: for a file that is damaged, or that no model here can be made of.
        DownloadError: for a file that cannot be fetched.
    """
    reading = _Reading(values, part, prefix, cache_dir)
    match source:
        case zoo.Source(kind="pretrained", architecture=str(arch), pretrained=zoo.Pretrained() as weights):
            return _of_published(arch, weights, hub.fetch_weights(weights, cache_dir), reading)
        case zoo.Source(kind="architecture-file", architecture=str(arch), path=Path() as path):
            return _of_architecture(arch, path, reading)
        case zoo.Source(kind="pocket", path=Path() as path):
            if not path.is_file():
                raise UnknownModelError("pocket", hint=f"This installation lacks its weights ({path}).")
            return replace(_of_file(path, reading), home=None)
        case zoo.Source(kind="file", path=Path() as path):
            return _of_file(path, reading)
        case zoo.Source(kind="folder", path=Path() as path):
            return _of_folder(path, reading)
        case zoo.Source(kind="hub", repo=str(repo)):
            return _of_repository(Repository(repo, source.subfolder, source.revision, cache_dir), reading)
    raise UnknownModelError(source.name)


def _of_published(arch: str, weights: zoo.Pretrained, path: Path, reading: _Reading) -> Examined:
    found = _of_bare(path, reading)
    home = "hf-hub:" + "/".join(weights.hf_hub.strip("/").split("/")[:2]) if weights.hf_hub else None
    found = replace(found, home=home, claims=_script_claims(found.checkpoint))
    return known_as(found, replace(weights, architecture=arch))


def _of_architecture(arch: str, path: Path, reading: _Reading) -> Examined:
    """A file for an architecture that the caller named; what it says itself must not contradict it."""
    own, cfg = _of_file(path, reading), zoo.architecture(arch)
    by = own.claims[0].by if own.claims else ""
    if own.cfg and by in (OWN_METADATA, CONFIG, THEIR_CONFIG) and (differing := _differing(own.cfg, cfg)):
        raise ConfigError(
            f"by {by}, {path} is of another architecture than {arch} ({', '.join(differing)} differ): load it as {path}"
        )
    if is_openais := has_openais_numbers(own.checkpoint):
        theirs = infer_openai_config(own.checkpoint.state_dict)
        for tower, ours, other in zip(TOWERS, heads_of(cfg), heads_of(theirs), strict=True):
            if ours is not None and ours != other:
                raise ConfigError(
                    f"{path} is in OpenAI's form, with {other} heads in its {tower} tower, and {arch} has {ours}: "
                    f"load it as {path}"
                )
    pixels = own.preprocess_cfg or zoo.preprocess_of(arch)
    return replace(
        own, architecture=arch, cfg=cfg, preprocess_cfg=pixels, bare=own.cfg is None and not is_openais
    )


def _of_file(path: Path, reading: _Reading) -> Examined:
    """A file with what it says itself, what lies beside it says, and what is known of published files."""
    own_names, their_names = (path.name in names for names in (WEIGHTS, THEIR_WEIGHTS))
    if (own_names or their_names) and (path.parent / CONFIG).is_file():
        return _of_config(path.parent / CONFIG, path, Folder(path.parent), reading)
    if their_names and _is_transformers(path.parent / THEIR_CONFIG):
        return _of_their_config(path.parent / THEIR_CONFIG, path, Folder(path.parent), reading)
    found = _of_bare(path, reading)
    if found.cfg is not None:
        return found
    found = replace(found, claims=_script_claims(found.checkpoint))
    known = identify_published.published_as(path, hashed=reading.values)
    return known_as(found, known[0]) if known else found


def _of_folder(folder: Path, reading: _Reading) -> Examined:
    """A folder with weights and a configuration, in open_clip's form or in transformers'; or one of a training."""
    place = Folder(folder)
    if is_sharded(folder):
        return _of_bare(folder, reading)
    if config := place.first([CONFIG]):
        return _of_config(config, _weights_in(folder), place, reading)
    if _is_transformers(folder / THEIR_CONFIG):
        weights = place.first(THEIR_WEIGHTS) or _weights_in(folder)
        return _of_their_config(folder / THEIR_CONFIG, weights, place, reading)
    if subfolder := clip_subfolder(place):
        return _of_folder(folder / subfolder, reading)
    for name, what in OTHER_FOLDERS.items():
        if (folder / name).is_file():
            raise CheckpointError(f"{folder} {what}")
    raise AmbiguousModelError(
        f"{folder} has no {CONFIG}, and no {THEIR_CONFIG} of transformers', and so does not say what its weights "
        f"are; name their architecture and their file, as in ViT-B-32:{folder / hub.HUB_WEIGHTS[0]}"
    )


def _weights_in(folder: Path) -> Path:
    found = Folder(folder).first((*WEIGHTS, *THEIR_WEIGHTS))
    others = sorted(folder.glob("*.safetensors"))
    if found or len(others) == 1:
        return found or others[0]
    if not others:
        raise CheckpointError(f"{folder} holds no weights: {' or '.join(hub.HUB_WEIGHTS)} was expected in it")
    raise AmbiguousModelError(f"{folder} holds several files of weights; call one {hub.HUB_WEIGHTS[0]}")


def _of_repository(place: Repository, reading: _Reading) -> Examined:
    config = place.first([CONFIG, THEIR_CONFIG])
    if config is None and not place.subfolder and (subfolder := clip_subfolder(place)):
        return _of_repository(replace(place, subfolder=subfolder), reading)
    config = config or place.fetch([CONFIG, THEIR_CONFIG])  # which says what is wrong
    if config.name == THEIR_CONFIG and not _is_transformers(config):
        raise AmbiguousModelError(f"{place.home} has no {CONFIG} and so does not say what its weights are")
    files = place.at_commit_of(config)
    if config.name == CONFIG:
        weights = files.first((*WEIGHTS, *THEIR_WEIGHTS)) or files.fetch(WEIGHTS[0])
        found = _of_config(config, weights, files, reading)
    else:
        weights = files.first(THEIR_WEIGHTS) or files.fetch(THEIR_WEIGHTS[0])
        found = _of_their_config(config, weights, files, reading)
    return replace(found, home=place.home)


def _of_config(config: Path, weights: Path, place: Place, reading: _Reading) -> Examined:
    content = read_json(config)
    if not isinstance(content.get("model_cfg"), dict):
        raise CheckpointError(f"{config} has no model_cfg")
    cfg, pixels = _configs(content, config)
    found = _of_bare(weights, reading, place)
    if found.cfg is not None:
        _check_same_heads(weights, found.cfg, cfg, config.name)
    if isinstance(place, Folder):
        cfg = find_text_tower(cfg, place.path)
    claims = (Claim(cfg.quick_gelu, config.name), *found.claims, *_script_claims(found.checkpoint))
    return replace(found, cfg=cfg, preprocess_cfg=pixels, claims=claims, home=place.home)


def _of_their_config(config: Path, weights: Path, place: Place, reading: _Reading) -> Examined:
    content = read_json(config)
    preprocessor = place.first(PIXELS)
    found = _of_bare(weights, reading, place, content, read_json(preprocessor) if preprocessor else None)
    if found.cfg is None:
        if what := what_it_is(found.checkpoint.state_dict):
            raise CheckpointError(f"{weights} {what}")
        raise CheckpointError(
            f"{config} describes a {content.get('model_type')!r}, and {weights.name} beside it holds no such model "
            "that is known here"
        )
    return replace(found, cfg=_with_tokenizer(found.cfg, place), home=place.home)


def _with_tokenizer(cfg: ModelCfg, place: Place) -> ModelCfg:
    """The configuration of a tower with as many ids as CLIP's, which does not say whose; its vocabulary does."""
    if cfg.text_cfg.hf_tokenizer_name is None:
        path = place.first(VOCABULARY_FILES)
        if path is not None and not is_clips_own(path):
            return replace(cfg, text_cfg=replace(cfg.text_cfg, hf_tokenizer_name=BESIDE))
    return cfg


def _of_bare(
    path: Path,
    reading: _Reading,
    place: Place | None = None,
    config: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> Examined:
    """A file by itself, in whatever format, with what its metadata or its format's configuration says."""
    checkpoint = read(path, part=reading.part, values=reading.values, fetch=place.fetch if place else None)
    with explained(path):
        tensors, others = model_in(checkpoint.state_dict, reading.prefix)
    checkpoint = replace(checkpoint, state_dict=tensors, left_out=tuple(others))
    found = Examined(checkpoint, path, checkpoint.format, path.parent)
    if form := recognise(checkpoint.state_dict, config):
        found = _of_format(found, form, config, preprocessor)
    if isinstance(checkpoint.metadata.get("model_cfg"), dict):
        own, pixels = _configs(checkpoint.metadata, "the metadata of the checkpoint")
        says = Claim(own.quick_gelu, OWN_METADATA)
        said = found.cfg if config is not None else None
        if said is None:
            return replace(found, cfg=own, preprocess_cfg=pixels, claims=(says,))
        _check_same_heads(path, own, said, THEIR_CONFIG)
        found = replace(found, claims=(*found.claims, says))
    return found


def _of_format(
    found: Examined, form: Format, config: Mapping[str, Any] | None, preprocessor: Mapping[str, Any] | None
) -> Examined:
    """The same with its tensors by our names, and with what its format says."""
    path = found.path
    try:
        converted = form.read(found.checkpoint.state_dict, config, preprocessor)
    except (CheckpointError, ConfigError) as error:
        kind = CheckpointError if isinstance(error, CheckpointError) else ConfigError
        raise kind(f"{path}, of the format {form.name}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{path} is no sound checkpoint of the format {form.name} ({why})") from error
    cfg = converted.cfg
    for said in (cfg, converted.preprocess_cfg):
        if said is not None:
            check_cfg(said, path)
    by = THEIR_CONFIG if config is not None else f"its format ({form.name})"
    return replace(
        found,
        checkpoint=replace(found.checkpoint, state_dict=converted.state_dict),
        format=form.name,
        cfg=cfg,
        preprocess_cfg=converted.preprocess_cfg,
        claims=(Claim(cfg.quick_gelu, by),) if cfg else (),
    )


def _check_same_heads(path: Path, said: ModelCfg, cfg: ModelCfg, by: str) -> None:
    """Raise ConfigError if a configuration has other heads than the file says itself."""
    for tower, own, other in zip(TOWERS, heads_of(said), heads_of(cfg), strict=True):
        if own != other:
            raise ConfigError(
                f"{path} has {own} heads in its {tower} tower by {OWN_METADATA}, and {other} by {by}: "
                "change the one that is wrong"
            )


def _configs(content: Mapping[str, Any], source: object) -> tuple[ModelCfg, PreprocessCfg]:
    """`model_cfg` and `preprocess_cfg` as dicts to configurations; the size of pictures is the model's if
    not given."""
    try:
        cfg = ModelCfg.from_dict(content["model_cfg"])
        pixels = {"size": cfg.vision_cfg.image_size} | dict(content.get("preprocess_cfg") or {})
        preprocess_cfg = PreprocessCfg.from_dict(pixels)
    except (ConfigError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{source} describes no model: {error}") from error
    check_cfg(cfg, source)
    check_cfg(preprocess_cfg, source)
    return cfg, preprocess_cfg


def _is_transformers(config: Path) -> bool:
    """Whether a `config.json` describes a model as transformers does."""
    return config.is_file() and "model_type" in read_json(config)


def _script_claims(checkpoint: Checkpoint) -> tuple[Claim, ...]:
    """What the code of a TorchScript archive says; and the numbers that only OpenAI's programs put among weights."""
    activation = checkpoint.metadata.get("activation") if checkpoint.format == "torchscript" else None
    if activation in ("gelu", "quick_gelu"):
        return (Claim(activation == "quick_gelu", "the code in the archive"),)
    if checkpoint.format != "torchscript" and has_openais_numbers(checkpoint):
        return (Claim(True, f"its {NOT_WEIGHTS[0]}, which OpenAI's state dicts have"),)
    return ()


def has_openais_numbers(checkpoint: Checkpoint) -> bool:
    """Whether OpenAI's programs wrote these weights, or `oneclip convert --to openai`: heads are then 64 wide."""
    return all(name in checkpoint.metadata for name in NOT_WEIGHTS) and looks_like_openai(
        checkpoint.state_dict
    )


def known_as(found: Examined, weights: zoo.Pretrained) -> Examined:
    """A file that turned out to be published weights, with their facts."""
    cfg = zoo.architecture(weights.architecture)
    if weights.quick_gelu is not None:
        cfg = replace(cfg, quick_gelu=weights.quick_gelu)
    claim = Claim(cfg.quick_gelu, f"being the published {weights.architecture}:{weights.tag}")
    pixels = weights.preprocess_cfg(cfg.vision_cfg.image_size)
    return replace(found, cfg=cfg, preprocess_cfg=pixels, claims=(*found.claims, claim))


# What two descriptions of one architecture may differ in: it changes nothing that is computed with the weights.
_FREE = {
    "quick_gelu",
    "init_logit_scale",
    "patch_dropout",
    "output_tokens",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "tokenizer_kwargs",
    "tokenizer_mode",
}


def _differing(one: ModelCfg, other: ModelCfg) -> list[str]:
    """The fields in which two configurations are of different architectures."""
    a, b = _fields(one), _fields(other)
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _fields(cfg: ModelCfg) -> dict[str, Any]:
    """The fields of a configuration that differ from their defaults, those of towers as `vision_cfg.width`."""
    flat: dict[str, Any] = {}
    for key, value in cfg.to_dict().items():
        inner = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        flat |= {name: v for name, v in inner.items() if name.rpartition(".")[2] not in _FREE}
    if not isinstance(cfg.vision_cfg.layers, int):
        flat.pop("vision_cfg.patch_size", None)  # means nothing to a ResNet
    return flat
