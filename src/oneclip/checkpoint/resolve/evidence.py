"""Facts about a checkpoint: those found in its file, and those that the caller declares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from oneclip import zoo
from oneclip.checkpoint.formats import CheckpointFormat, ForeignCheckpoint, detect_format
from oneclip.checkpoint.readers.read import Checkpoint, read
from oneclip.checkpoint.readers.read_errors import as_checkpoint_error
from oneclip.checkpoint.readers.select_state_dict import extract_model
from oneclip.checkpoint.readers.torch_zip import NOT_WEIGHTS
from oneclip.checkpoint.resolve.attention_heads import TOWER_NAMES, Heads, head_counts
from oneclip.checkpoint.resolve.infer_openai import looks_like_openai
from oneclip.checkpoint.resolve.locations import HF_CONFIG, Location
from oneclip.checkpoint.resolve.validate_config import check_cfg
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError

OWN_METADATA = "its own metadata"
Preprocessing: TypeAlias = str | Mapping[str, Any] | PreprocessCfg


@dataclass(frozen=True)
class ActivationEvidence:
    """A statement about the activation of a model.

    Attributes:
        quick_gelu: True for QuickGELU, False for GELU.
        source: where the statement comes from, such as "config.json".
    """

    quick_gelu: bool
    source: str


@dataclass(frozen=True)
class CheckpointEvidence:
    """A checkpoint and the facts found about it, which may contradict each other.

    Attributes:
        checkpoint: its tensors, by our names.
        path: path of the file, or of the index of its shards.
        format: kind of checkpoint, for people.
        home: folder or repository that may contain its tokenizer, as in `Loaded`.
        architecture: the architecture that the caller named, or of the published weights that the file contains.
        cfg: configuration of the model, if known. Its `quick_gelu` only counts if it is also part of `activation`.
        preprocess_cfg: preprocessing of the images, if known.
        activation: statements about the activation, the most reliable first.
        architecture_only: True if only the architecture named by the caller describes the model.
    """

    checkpoint: Checkpoint
    path: Path
    format: str
    home: str | Path | None = None
    architecture: str | None = None
    cfg: ModelCfg | None = None
    preprocess_cfg: PreprocessCfg | None = None
    activation: tuple[ActivationEvidence, ...] = ()
    architecture_only: bool = False

    @property
    def is_torchscript(self) -> bool:
        """True for a TorchScript archive."""
        return self.checkpoint.format == "torchscript"

    @property
    def is_foreign_torchscript(self) -> bool:
        """True for a TorchScript archive without OpenAI's QuickGELU; its preprocessing is unknown, too."""
        return self.is_torchscript and not all(stated.quick_gelu for stated in self.activation)

    @property
    def is_from_openai(self) -> bool:
        """True if OpenAI's programs wrote the file, so that heads and preprocessing are OpenAI's."""
        return has_openai_metadata(self.checkpoint) and not self.is_foreign_torchscript


@dataclass(frozen=True)
class DeclaredFacts:
    """Facts that the caller states about weights, for files that do not contain them. None means not stated.

    Attributes:
        quick_gelu: True for QuickGELU, False for GELU.
        heads: of both towers, or (image tower, text tower).
        preprocess: "openai", or fields of a `PreprocessCfg`; the default size is the model's image size.
    """

    quick_gelu: bool | None = None
    heads: Heads | None = None
    preprocess: Preprocessing | None = None

    def preprocess_cfg(self, cfg: ModelCfg) -> PreprocessCfg | None:
        """Convert `preprocess` to a configuration for a model.

        Raises:
            ConfigError: if it is neither "openai" nor fields of a `PreprocessCfg`.
        """
        if self.preprocess is None or isinstance(self.preprocess, PreprocessCfg):
            return self.preprocess
        fields = {} if self.preprocess == "openai" else self.preprocess
        if not isinstance(fields, Mapping):
            raise ConfigError(
                f"preprocess is {self.preprocess!r}; expected 'openai' or a mapping of fields of a PreprocessCfg"
            )
        return PreprocessCfg.from_dict({"size": cfg.vision_cfg.image_size} | dict(fields))


@dataclass(frozen=True)
class ReadOptions:
    """How files are read; see `gather_evidence`."""

    values: bool = True
    part: str | None = None
    prefix: str | None = None
    cache_dir: str | os.PathLike[str] | None = None


def read_file(
    path: Path,
    options: ReadOptions,
    location: Location | None = None,
    config: Mapping[str, Any] | None = None,
    preprocessor: Mapping[str, Any] | None = None,
) -> CheckpointEvidence:
    """Read a file of any format, with the facts in its metadata or in the configuration of its format.

    Args:
        path: path of the file.
        options: how to read it.
        location: where its shards are; by default next to their index.
        config, preprocessor: content of the files of transformers next to it, if any.
    """
    checkpoint = read(
        path, part=options.part, values=options.values, fetch=location.fetch if location else None
    )
    with as_checkpoint_error(path):
        tensors, others = extract_model(checkpoint.state_dict, options.prefix)
    checkpoint = replace(checkpoint, state_dict=tensors, left_out=tuple(others))
    evidence = CheckpointEvidence(checkpoint, path, checkpoint.format, path.parent)
    if detected := detect_format(checkpoint.state_dict, config):
        evidence = _convert(evidence, detected, config, preprocessor)
    if not isinstance(checkpoint.metadata.get("model_cfg"), dict):
        return evidence
    own_cfg, preprocess_cfg = parse_configs(checkpoint.metadata, "the metadata of the checkpoint")
    stated = ActivationEvidence(own_cfg.quick_gelu, OWN_METADATA)
    if config is None or evidence.cfg is None:
        return replace(evidence, cfg=own_cfg, preprocess_cfg=preprocess_cfg, activation=(stated,))
    check_same_heads(path, own_cfg, evidence.cfg, HF_CONFIG)
    return replace(evidence, activation=(*evidence.activation, stated))


def _convert(
    evidence: CheckpointEvidence,
    source_format: CheckpointFormat,
    config: Mapping[str, Any] | None,
    preprocessor: Mapping[str, Any] | None,
) -> CheckpointEvidence:
    """Rename the tensors of a foreign format to our names, and add what the format says about the model."""
    path = evidence.path
    try:
        theirs = ForeignCheckpoint(evidence.checkpoint.state_dict, config, preprocessor)
        converted = source_format.read(theirs)
    except (CheckpointError, ConfigError) as error:
        kind = CheckpointError if isinstance(error, CheckpointError) else ConfigError
        raise kind(f"{path} (format {source_format.name}): {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(
            f"{path} is not a valid checkpoint of the format {source_format.name} ({why})"
        ) from error
    cfg = converted.cfg
    for each in (cfg, converted.preprocess_cfg):
        if each is not None:
            check_cfg(each, path)
    source = HF_CONFIG if config is not None else f"its format ({source_format.name})"
    return replace(
        evidence,
        checkpoint=replace(evidence.checkpoint, state_dict=converted.state_dict),
        format=source_format.name,
        cfg=cfg,
        preprocess_cfg=converted.preprocess_cfg,
        activation=(ActivationEvidence(cfg.quick_gelu, source),) if cfg else (),
    )


def parse_configs(content: Mapping[str, Any], source: object) -> tuple[ModelCfg, PreprocessCfg]:
    """Parse `model_cfg` and `preprocess_cfg`; the default image size is that of the model."""
    try:
        cfg = ModelCfg.from_dict(content["model_cfg"])
        fields = {"size": cfg.vision_cfg.image_size} | dict(content.get("preprocess_cfg") or {})
        preprocess_cfg = PreprocessCfg.from_dict(fields)
    except (ConfigError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{source} is not a valid model configuration: {error}") from error
    check_cfg(cfg, source)
    check_cfg(preprocess_cfg, source)
    return cfg, preprocess_cfg


def check_same_heads(path: Path, own: ModelCfg, other: ModelCfg, source: str) -> None:
    """Raise ConfigError if another configuration contradicts the heads in the file's own metadata."""
    for tower, stored, stated in zip(TOWER_NAMES, head_counts(own), head_counts(other), strict=True):
        if stored != stated:
            raise ConfigError(
                f"the {tower} tower of {path} has {stored} heads by {OWN_METADATA}, and {stated} by {source}: "
                "correct the wrong one"
            )


def has_openai_metadata(checkpoint: Checkpoint) -> bool:
    """Check for the numbers that only OpenAI's programs (and `oneclip convert --to openai`) store with weights.

    Such weights have heads of width 64.
    """
    return all(name in checkpoint.metadata for name in NOT_WEIGHTS) and looks_like_openai(
        checkpoint.state_dict
    )


def file_activation(checkpoint: Checkpoint) -> tuple[ActivationEvidence, ...]:
    """Return the activation in the code of a TorchScript archive, or of a state dict that OpenAI's programs wrote."""
    activation = checkpoint.metadata.get("activation") if checkpoint.format == "torchscript" else None
    if activation in ("gelu", "quick_gelu"):
        return (ActivationEvidence(activation == "quick_gelu", "the code in the archive"),)
    if checkpoint.format != "torchscript" and has_openai_metadata(checkpoint):
        return (ActivationEvidence(True, f"its {NOT_WEIGHTS[0]}, which only OpenAI's state dicts have"),)
    return ()


def with_published_facts(evidence: CheckpointEvidence, weights: zoo.Pretrained) -> CheckpointEvidence:
    """Add the facts of published weights to a file that contains them."""
    cfg = zoo.architecture(weights.architecture)
    if weights.quick_gelu is not None:
        cfg = replace(cfg, quick_gelu=weights.quick_gelu)
    stated = ActivationEvidence(cfg.quick_gelu, f"the published weights {weights.architecture}:{weights.tag}")
    return replace(
        evidence,
        cfg=cfg,
        preprocess_cfg=weights.preprocess_cfg(cfg.vision_cfg.image_size),
        activation=(*evidence.activation, stated),
    )
