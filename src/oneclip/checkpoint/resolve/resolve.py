"""Resolve the evidence about a checkpoint into one model configuration.

The activation is stated by the file itself, by the published weights that it contains, by the caller's `quick_gelu`,
or by the architecture named. All statements must agree. Shapes show neither the activation, nor the heads, nor the
preprocessing: if nothing states them, an error asks for them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from oneclip import hub, zoo
from oneclip.checkpoint.readers import safetensors_index
from oneclip.checkpoint.readers.read import Checkpoint
from oneclip.checkpoint.resolve.attention_heads import (
    check_heads,
    head_counts,
    heads_per_tower,
    with_heads,
)
from oneclip.checkpoint.resolve.end_of_text import pool_at_end_of_text
from oneclip.checkpoint.resolve.evidence import (
    ActivationEvidence,
    CheckpointEvidence,
    DeclaredFacts,
    with_published_facts,
)
from oneclip.checkpoint.resolve.gather import gather_evidence
from oneclip.checkpoint.resolve.identify_published import identify_checksum
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.resolve.match_architecture import exact_matches, resized_matches
from oneclip.checkpoint.resolve.questions import (
    ask_for_activation,
    describe_sizes,
    example_name,
    nearest_hint,
)
from oneclip.checkpoint.resolve.unsupported_files import unsupported_reason
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError

ACTIVATION_NAMES = {True: "QuickGELU", False: "GELU"}
NOTHING_DECLARED = DeclaredFacts()


@dataclass(frozen=True)
class ResolvedCheckpoint:
    """A checkpoint with everything that is needed to build its model.

    Attributes:
        checkpoint: its tensors, by the names of the model.
        cfg: configuration of the model.
        preprocess_cfg: preprocessing of its images.
        path: path of the file, or of the index of its shards.
        home: folder or repository that may contain its tokenizer, as in `Loaded`.
        format: kind of checkpoint, for people.
        activation_source: what states the activation, such as "config.json".
        notes: assumptions about the checkpoint, one sentence each.
    """

    checkpoint: Checkpoint
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    path: Path
    home: str | Path | None = None
    format: str = ""
    activation_source: str = ""
    notes: tuple[str, ...] = ()


def resolve_checkpoint(
    source: zoo.ModelSource,
    cache_dir: str | os.PathLike[str] | None = None,
    declared: DeclaredFacts = NOTHING_DECLARED,
    *,
    part: str | None = None,
    prefix: str | None = None,
    values: bool = True,
) -> ResolvedCheckpoint:
    """Read a checkpoint and determine its configuration; see `load` for the other arguments and the errors.

    Args:
        source: result of `zoo.resolve`.
        cache_dir: where downloads are stored, instead of the usual folders.
        declared: facts that the caller states.
        part, prefix: as in `load`.
        values: False to read only shapes and dtypes; the tensors are then on the meta device.
    """
    evidence = gather_evidence(source, cache_dir=cache_dir, part=part, prefix=prefix, values=values)
    return resolve_evidence(evidence, declared, cache_dir)


def resolve_evidence(
    evidence: CheckpointEvidence,
    declared: DeclaredFacts = NOTHING_DECLARED,
    cache_dir: str | os.PathLike[str] | None = None,
) -> ResolvedCheckpoint:
    """Combine all facts about a checkpoint into one configuration and one preprocessing.

    Args:
        evidence: the checkpoint and the facts found about it.
        declared: facts that the caller states.
        cache_dir: where downloads are stored, instead of the usual folders.

    Raises:
        CheckpointError: if the file does not contain a model.
        ConfigError: if two facts contradict each other.
        AmbiguousModelError: if a necessary fact is missing; the message says how to provide it.
    """
    path = evidence.path
    if reason := unsupported_reason(evidence.checkpoint.state_dict):
        raise CheckpointError(f"{path} {reason}")
    heads = None if declared.heads is None else heads_per_tower(declared.heads)
    if evidence.cfg is None and not evidence.activation and declared.quick_gelu is None:
        evidence = _identify_by_checksum(evidence)
    activation = _resolve_activation(evidence, declared)
    is_foreign_script = evidence.cfg is None and evidence.is_foreign_torchscript
    if activation is None or (is_foreign_script and declared.quick_gelu is None):
        _check_torchscript(evidence)
        raise AmbiguousModelError(ask_for_activation(evidence, declared))
    notes = _notes(evidence)
    cfg, preprocess_cfg = evidence.cfg, evidence.preprocess_cfg
    if cfg is None:
        cfg, preprocess_cfg, note = _infer_from_shapes(evidence, activation, declared)
        notes += [note] if note else []
    elif heads is not None:
        check_heads(cfg, heads, path)
    preprocess_cfg = _resolve_preprocessing(evidence, declared, cfg, preprocess_cfg)
    cfg = replace(cfg, quick_gelu=activation.quick_gelu)
    if evidence.architecture is None:
        cfg = pool_at_end_of_text(cfg, evidence.home, cache_dir)
    return ResolvedCheckpoint(
        evidence.checkpoint,
        cfg,
        preprocess_cfg,
        path,
        evidence.home,
        evidence.format,
        activation.source,
        tuple(notes),
    )


def _identify_by_checksum(evidence: CheckpointEvidence) -> CheckpointEvidence:
    """Add the facts of published weights if the file has their checksum."""
    state_dict = evidence.checkpoint.state_dict
    if any(tensor.is_meta for tensor in state_dict.values()):
        return evidence
    if safetensors_index.is_index(evidence.path) or evidence.path.is_dir():
        return evidence
    exact = exact_matches(state_dict)
    if not any(zoo.pretrained(arch, tag).sha256 for arch in exact for tag in zoo.pretrained_tags(arch)):
        return evidence  # none of the candidates has a checksum: do not read a large file again
    published = identify_checksum(hub.sha256_of(evidence.path))
    return with_published_facts(evidence, published[0]) if published else evidence


def _resolve_activation(evidence: CheckpointEvidence, declared: DeclaredFacts) -> ActivationEvidence | None:
    """Return the most reliable statement about the activation, if any, after checking that all agree."""
    stated = list(evidence.activation)
    if declared.quick_gelu is not None:
        stated.append(ActivationEvidence(declared.quick_gelu, "quick_gelu="))
    for other in stated[1:]:
        if other.quick_gelu != stated[0].quick_gelu:
            raise ConfigError(
                f"{evidence.path} has {ACTIVATION_NAMES[stated[0].quick_gelu]} by {stated[0].source}, and "
                f"{ACTIVATION_NAMES[other.quick_gelu]} by {other.source}: remove or correct the wrong one"
            )
    first = stated[0] if stated else None
    if evidence.architecture is None or evidence.cfg is None:
        return first
    return _check_architecture(evidence, evidence.architecture, evidence.cfg, first, declared)


def _check_architecture(
    evidence: CheckpointEvidence,
    arch: str,
    cfg: ModelCfg,
    stated: ActivationEvidence | None,
    declared: DeclaredFacts,
) -> ActivationEvidence:
    """Compare a statement about the activation with the architecture named, which decides if there is no statement.

    `quick_gelu=True` turns an architecture into its twin with QuickGELU. The reverse is not possible.
    """
    if stated is None:
        return ActivationEvidence(cfg.quick_gelu, f"the architecture {arch}")
    if stated.quick_gelu == cfg.quick_gelu or (declared.quick_gelu and not cfg.quick_gelu):
        return stated
    own, named = ACTIVATION_NAMES[stated.quick_gelu], ACTIVATION_NAMES[cfg.quick_gelu]
    path, twin = evidence.path, _twin(arch, stated.quick_gelu)
    raise ConfigError(
        f"{path} has {own}, and {arch} has {named}: load it as {path}, or as {twin}:{path} (it has {own} by "
        f"{stated.source})"
    )


def _twin(arch: str, quick_gelu: bool) -> str:
    """Return the name of the same architecture with the other activation."""
    twin = f"{arch}-quickgelu" if quick_gelu else arch.removesuffix("-quickgelu")
    return twin if twin in zoo.architectures() else "ARCHITECTURE"


def _check_torchscript(evidence: CheckpointEvidence) -> None:
    """Raise CheckpointError for a TorchScript archive of an unknown kind of model."""
    state_dict = evidence.checkpoint.state_dict
    if evidence.is_torchscript and not looks_like_openai(state_dict) and not exact_matches(state_dict):
        raise CheckpointError(
            f"{evidence.path} is a TorchScript archive, but not of a model in OpenAI's format"
        )


def _notes(evidence: CheckpointEvidence) -> list[str]:
    """Describe unused tensors, and what is assumed from the architecture named."""
    notes = []
    if evidence.checkpoint.left_out:
        notes.append(f"{evidence.path} also contains {', '.join(evidence.checkpoint.left_out[:6])}, not used")
    if evidence.architecture_only:
        assert evidence.cfg is not None
        heads = [str(count) for count in head_counts(evidence.cfg) if count is not None]
        assumed = [] if evidence.activation else [ACTIVATION_NAMES[evidence.cfg.quick_gelu]]
        assumed += [f"{' and '.join(heads)} heads"] if heads else []
        notes.append(
            f"{evidence.path} does not describe its model: {', '.join([*assumed, 'preprocessing'])} are taken from "
            f"{evidence.architecture}"
        )
    return notes


def _infer_from_shapes(
    evidence: CheckpointEvidence, activation: ActivationEvidence, declared: DeclaredFacts
) -> tuple[ModelCfg, PreprocessCfg | None, str | None]:
    """Find the configuration by the shapes of the tensors: a published architecture, or else OpenAI's format.

    Returns:
        The configuration, the preprocessing if known, and a note on assumptions, if any.
    """
    state_dict, path = evidence.checkpoint.state_dict, evidence.path
    exact = {arch: zoo.architecture(arch) for arch in exact_matches(state_dict)}
    matches = exact or resized_matches(state_dict)
    if declared.heads is not None:
        heads = heads_per_tower(declared.heads)
        matches = {arch: with_heads(cfg, heads, path) for arch, cfg in matches.items()}
    # Architectures that differ only by their activation are one; the first of them gives the name.
    distinct = {
        str(replace(cfg, quick_gelu=activation.quick_gelu)): arch for arch, cfg in reversed(matches.items())
    }
    if len(distinct) > 1:
        raise AmbiguousModelError(
            f"{path} has the shapes of {' and '.join(distinct.values())}: name one, as in {example_name(evidence)}"
        )
    if distinct:
        (arch,) = distinct.values()
        cfg, preprocess_cfg = matches[arch], zoo.preprocess_of(arch)
        facts = {"heads": declared.heads, "preprocessing": declared.preprocess}
        assumed = [fact for fact, value in facts.items() if value is None]
        if exact or not assumed:
            return cfg, preprocess_cfg, None
        note = f"{path} has the shapes of {arch} {describe_sizes(cfg)}: {' and '.join(assumed)} are taken from it"
        return cfg, replace(preprocess_cfg, size=cfg.vision_cfg.image_size), note
    if looks_like_openai(state_dict):
        return _infer_openai(evidence, activation, declared)
    _check_torchscript(evidence)
    raise AmbiguousModelError(
        f"{path} does not name its architecture, and no published one has its shapes: {nearest_hint(evidence)}name it, "
        f"as in {example_name(evidence)}, or put an open_clip_config.json next to it"
    )


def _infer_openai(
    evidence: CheckpointEvidence, activation: ActivationEvidence, declared: DeclaredFacts
) -> tuple[ModelCfg, PreprocessCfg, None]:
    """Infer the configuration of a file in OpenAI's format; heads and preprocessing must be known."""
    if not evidence.is_from_openai and None in (declared.heads, declared.preprocess):
        declared = replace(declared, quick_gelu=activation.quick_gelu)
        raise AmbiguousModelError(ask_for_activation(evidence, declared))
    heads = None if declared.heads is None else heads_per_tower(declared.heads)
    try:
        cfg = infer_openai_config(evidence.checkpoint.state_dict, heads)
    except CheckpointError as error:
        raise CheckpointError(f"{evidence.path}: {error}") from error
    return cfg, declared.preprocess_cfg(cfg) or PreprocessCfg(size=cfg.vision_cfg.image_size), None


def _resolve_preprocessing(
    evidence: CheckpointEvidence,
    declared: DeclaredFacts,
    cfg: ModelCfg,
    preprocess_cfg: PreprocessCfg | None,
) -> PreprocessCfg:
    """Return the preprocessing, after checking that the caller's `preprocess` agrees with the file."""
    path, own = evidence.path, evidence.preprocess_cfg
    stated = declared.preprocess_cfg(cfg)
    if stated is not None:
        if own not in (None, stated) and not evidence.architecture_only:
            raise ConfigError(
                f"{path} specifies another preprocessing of images than preprocess=: remove the argument, or change "
                "the file or the configuration next to it"
            )
        return stated
    if preprocess_cfg is None:
        raise AmbiguousModelError(
            f"{path} does not say how images are prepared for it, and has no preprocessor_config.json next to it: add "
            f"that file, pass preprocess= in Python, or name the architecture, as in {example_name(evidence)}"
        )
    return preprocess_cfg
