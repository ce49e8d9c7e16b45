"""Collect the known facts about a checkpoint, without building a model.

Facts come from the metadata of the file, from a configuration next to it, from the code of a TorchScript archive, and
from the list of published weights. Contradictions are kept here; `resolve_evidence` reports them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from oneclip import hub, zoo
from oneclip.checkpoint.readers.read import is_distributed
from oneclip.checkpoint.resolve.attention_heads import TOWER_NAMES, head_counts
from oneclip.checkpoint.resolve.evidence import (
    OWN_METADATA,
    ActivationEvidence,
    CheckpointEvidence,
    ReadOptions,
    check_same_heads,
    file_activation,
    has_openai_metadata,
    parse_configs,
    read_file,
    with_published_facts,
)
from oneclip.checkpoint.resolve.identify_published import identify_file
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config
from oneclip.checkpoint.resolve.locations import (
    HF_CONFIG,
    HF_PREPROCESSOR_FILES,
    HF_WEIGHTS,
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    HubRepository,
    LocalFolder,
    Location,
    clip_subfolder,
)
from oneclip.checkpoint.resolve.match_architecture import differing_fields
from oneclip.checkpoint.resolve.text_tower_config import find_text_tower
from oneclip.checkpoint.resolve.unsupported_files import UNSUPPORTED_FOLDERS, unsupported_reason
from oneclip.config import ModelCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError, UnknownModelError
from oneclip.hub import read_json
from oneclip.text.clip.clip_vocab import is_clip_vocabulary
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER
from oneclip.text.hf.tokenizer_files import VOCABULARIES

VOCABULARY_FILES = tuple(names[0] for names in VOCABULARIES)


def gather_evidence(
    source: zoo.ModelSource,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    part: str | None = None,
    prefix: str | None = None,
    values: bool = True,
) -> CheckpointEvidence:
    """Download a checkpoint if necessary, read it, and collect the facts about it.

    Args:
        source: result of `zoo.resolve`.
        cache_dir: where downloads are stored, instead of the usual folders.
        part: as in `read`.
        prefix: prefix of the model's tensors in a file that contains more; by default it is detected.
        values: False to read only shapes and dtypes; the tensors are then on the meta device.

    Raises:
        UnknownModelError: if the file does not exist.
        AmbiguousModelError: if it is unclear which file is meant, or what it contains.
        CheckpointError, ConfigError: for a damaged file, or one that no model here can be built from.
        DownloadError: for a file that cannot be downloaded.
    """
    options = ReadOptions(values, part, prefix, cache_dir)
    match source:
        case zoo.ModelSource(
            kind="pretrained", architecture=str(arch), pretrained=zoo.Pretrained() as weights
        ):
            return _from_published(arch, weights, options)
        case zoo.ModelSource(kind="architecture-file", architecture=str(arch), path=Path() as path):
            return _from_architecture(arch, path, options)
        case zoo.ModelSource(kind="pocket", path=Path() as path):
            if not path.is_file():
                raise UnknownModelError(
                    "pocket", hint=f"Its weights are missing in this installation ({path})."
                )
            return replace(_from_file(path, options), home=None)
        case zoo.ModelSource(kind="file", path=Path() as path):
            return _from_file(path, options)
        case zoo.ModelSource(kind="folder", path=Path() as path):
            return _from_folder(path, options)
        case zoo.ModelSource(kind="hub", repo=str(repo)):
            return _from_repository(
                HubRepository(repo, source.subfolder, source.revision, cache_dir), options
            )
    raise UnknownModelError(source.name)


# One function per kind of source.


def _from_published(arch: str, weights: zoo.Pretrained, options: ReadOptions) -> CheckpointEvidence:
    evidence = read_file(hub.fetch_weights(weights, options.cache_dir), options)
    address = zoo.parse_hub_address(weights.hf_hub) if weights.hf_hub else None
    home = str(zoo.HubAddress(address.repo)) if address else None
    evidence = replace(evidence, home=home, activation=file_activation(evidence.checkpoint))
    return with_published_facts(evidence, replace(weights, architecture=arch))


def _from_architecture(arch: str, path: Path, options: ReadOptions) -> CheckpointEvidence:
    """Read a file for an architecture that the caller named. The file's own facts must not contradict it."""
    own, cfg = _from_file(path, options), zoo.architecture(arch)
    described_by = own.activation[0].source if own.activation else ""
    is_described = described_by in (OWN_METADATA, OPEN_CLIP_CONFIG, HF_CONFIG)
    if is_described and own.cfg is not None and (differing := differing_fields(own.cfg, cfg)):
        raise ConfigError(
            f"{path} has another architecture than {arch} according to {described_by} ({', '.join(differing)} "
            f"differ): load it as {path}"
        )
    if from_openai := has_openai_metadata(own.checkpoint):
        openai_heads = head_counts(infer_openai_config(own.checkpoint.state_dict))
        for tower, named, stored in zip(TOWER_NAMES, head_counts(cfg), openai_heads, strict=True):
            if named is not None and named != stored:
                raise ConfigError(
                    f"{path} is in OpenAI's format, with {stored} heads in its {tower} tower, but {arch} has {named}: "
                    f"load it as {path}"
                )
    return replace(
        own,
        architecture=arch,
        cfg=cfg,
        preprocess_cfg=own.preprocess_cfg or zoo.preprocess_of(arch),
        architecture_only=own.cfg is None and not from_openai,
    )


def _from_file(path: Path, options: ReadOptions) -> CheckpointEvidence:
    """Read a file, with a configuration next to it if its name shows that both belong together."""
    folder = LocalFolder(path.parent)
    is_open_clip, is_hf = (path.name in names for names in (OPEN_CLIP_WEIGHTS, HF_WEIGHTS))
    if (is_open_clip or is_hf) and (path.parent / OPEN_CLIP_CONFIG).is_file():
        return _with_open_clip_config(path.parent / OPEN_CLIP_CONFIG, path, folder, options)
    if is_hf and _is_transformers_config(path.parent / HF_CONFIG):
        return _with_hf_config(path.parent / HF_CONFIG, path, folder, options)
    evidence = read_file(path, options)
    if evidence.cfg is not None:
        return evidence
    evidence = replace(evidence, activation=file_activation(evidence.checkpoint))
    published = identify_file(path, verify=options.values)
    return with_published_facts(evidence, published[0]) if published else evidence


def _from_folder(folder: Path, options: ReadOptions) -> CheckpointEvidence:
    """Read a folder in the form of open_clip, transformers or sentence-transformers, or of a distributed training."""
    location = LocalFolder(folder)
    if is_distributed(folder):
        return read_file(folder, options)
    if config := location.first([OPEN_CLIP_CONFIG]):
        return _with_open_clip_config(config, _weights_in(folder), location, options)
    if _is_transformers_config(folder / HF_CONFIG):
        weights = location.first(HF_WEIGHTS) or _weights_in(folder)
        return _with_hf_config(folder / HF_CONFIG, weights, location, options)
    if subfolder := clip_subfolder(location):
        return _from_folder(folder / subfolder, options)
    for name, reason in UNSUPPORTED_FOLDERS.items():
        if (folder / name).is_file():
            raise CheckpointError(f"{folder} {reason}")
    raise AmbiguousModelError(
        f"{folder} does not describe its weights: it has neither {OPEN_CLIP_CONFIG} nor a {HF_CONFIG} of transformers. "
        f"Give the architecture and the file, as in ViT-B-32:{folder / hub.HUB_WEIGHTS[0]}"
    )


def _weights_in(folder: Path) -> Path:
    found = LocalFolder(folder).first((*OPEN_CLIP_WEIGHTS, *HF_WEIGHTS))
    others = sorted(folder.glob("*.safetensors"))
    if found or len(others) == 1:
        return found or others[0]
    if not others:
        raise CheckpointError(f"{folder} contains no weights; expected {' or '.join(hub.HUB_WEIGHTS)}")
    raise AmbiguousModelError(
        f"{folder} contains several weights files; rename the right one to {hub.HUB_WEIGHTS[0]}"
    )


def _from_repository(repository: HubRepository, options: ReadOptions) -> CheckpointEvidence:
    configs = [OPEN_CLIP_CONFIG, HF_CONFIG]
    config = repository.first(configs)
    if config is None and not repository.subfolder and (subfolder := clip_subfolder(repository)):
        return _from_repository(replace(repository, subfolder=subfolder), options)
    config = config or repository.fetch(configs)  # raises, with the reason
    if config.name == HF_CONFIG and not _is_transformers_config(config):
        raise AmbiguousModelError(
            f"{repository.home} does not describe its weights: it has no {OPEN_CLIP_CONFIG}"
        )
    pinned = repository.at_commit_of(config)
    if config.name == OPEN_CLIP_CONFIG:
        weights = pinned.first((*OPEN_CLIP_WEIGHTS, *HF_WEIGHTS)) or pinned.fetch(OPEN_CLIP_WEIGHTS[0])
        evidence = _with_open_clip_config(config, weights, pinned, options)
    else:
        weights = pinned.first(HF_WEIGHTS) or pinned.fetch(HF_WEIGHTS[0])
        evidence = _with_hf_config(config, weights, pinned, options)
    return replace(evidence, home=repository.home)


# Weights with a configuration next to them.


def _with_open_clip_config(
    config: Path, weights: Path, location: Location, options: ReadOptions
) -> CheckpointEvidence:
    content = read_json(config)
    if not isinstance(content.get("model_cfg"), dict):
        raise CheckpointError(f"{config} has no model_cfg")
    cfg, preprocess_cfg = parse_configs(content, config)
    evidence = read_file(weights, options, location)
    if evidence.cfg is not None:
        check_same_heads(weights, evidence.cfg, cfg, config.name)
    if isinstance(location, LocalFolder):
        cfg = find_text_tower(cfg, location.path)
    stated = ActivationEvidence(cfg.quick_gelu, config.name)
    activation = (stated, *evidence.activation, *file_activation(evidence.checkpoint))
    return replace(
        evidence, cfg=cfg, preprocess_cfg=preprocess_cfg, activation=activation, home=location.home
    )


def _with_hf_config(
    config: Path, weights: Path, location: Location, options: ReadOptions
) -> CheckpointEvidence:
    content = read_json(config)
    preprocessor = location.first(HF_PREPROCESSOR_FILES)
    evidence = read_file(
        weights, options, location, content, read_json(preprocessor) if preprocessor else None
    )
    if evidence.cfg is None:
        if reason := unsupported_reason(evidence.checkpoint.state_dict):
            raise CheckpointError(f"{weights} {reason}")
        raise CheckpointError(
            f"{config} describes a model of type {content.get('model_type')!r}, and {weights.name} next to it contains "
            "no model of a type that is supported here"
        )
    return replace(evidence, cfg=_with_own_tokenizer(evidence.cfg, location), home=location.home)


def _is_transformers_config(config: Path) -> bool:
    return config.is_file() and "model_type" in read_json(config)


def _with_own_tokenizer(cfg: ModelCfg, location: Location) -> ModelCfg:
    """Use the tokenizer next to the weights if its vocabulary is not CLIP's.

    A text tower with as many token ids as CLIP's does not show which tokenizer it was trained with.
    """
    if cfg.text_cfg.hf_tokenizer_name is None:
        path = location.first(VOCABULARY_FILES)
        if path is not None and not is_clip_vocabulary(path):
            return replace(cfg, text_cfg=replace(cfg.text_cfg, hf_tokenizer_name=TOKENIZER_IN_MODEL_FOLDER))
    return cfg
