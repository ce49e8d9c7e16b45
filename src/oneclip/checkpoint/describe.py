"""Everything that is said about a checkpoint to one configuration, or to the question that is left.

The activation of weights is said by the file itself, by the published weights that it is known to be, by the
caller's `quick_gelu`, or by the architecture named. They must agree. Shapes say nothing about it: where nobody does,
it is asked for.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from oneclip import hub, zoo
from oneclip.checkpoint import origin, shapes, shards
from oneclip.checkpoint.examine import Claim, Examined, examine, known_as
from oneclip.checkpoint.openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.read import Checkpoint
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError

ACTIVATIONS = {True: "QuickGELU", False: "GELU"}


@dataclass(frozen=True)
class Described:
    """A checkpoint and what is known about it: what `load` builds a model of.

    Attributes:
        checkpoint: its tensors, by the names of the model.
        cfg: what to build.
        preprocess_cfg: how a picture becomes a tensor for it.
        path: of the file, or of the index of its shards.
        home: where its tokenizer may lie, as in `Loaded`.
        format: what kind of checkpoint it is, for people.
        activation: who says which activation it has.
    """

    checkpoint: Checkpoint
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    path: Path
    home: str | Path | None = None
    format: str = ""
    activation: str = ""


def describe(
    source: zoo.Source,
    cache_dir: str | os.PathLike[str] | None = None,
    quick_gelu: bool | None = None,
    *,
    part: str | None = None,
    values: bool = True,
) -> Described:
    """Get the file that a name means, and what is known about it; the arguments and errors are those of `load`.

    Args:
        source: what `zoo.resolve` made of the name.
        values: False to read only what describes the tensors, which are then on the meta device: for those who
            want to know what a model is, and not its weights.
    """
    return settled(examine(source, cache_dir=cache_dir, part=part, values=values), quick_gelu)


def settled(found: Examined, quick_gelu: bool | None = None) -> Described:
    """One configuration and one preprocessing out of everything that is said.

    Raises:
        ConfigError: where two contradict each other.
        AmbiguousModelError: where nobody says something that has to be known; the message has the ways out.
    """
    if found.cfg is None and not found.claims and quick_gelu is None:
        found = _by_checksum(found)
    claims = found.claims
    if quick_gelu is not None:
        claims = (*claims, Claim(quick_gelu, "quick_gelu="))
    for claim in claims[1:]:
        if claim.quick_gelu != claims[0].quick_gelu:
            raise ConfigError(
                f"{found.path} has {ACTIVATIONS[claims[0].quick_gelu]} by {claims[0].by}, and "
                f"{ACTIVATIONS[claim.quick_gelu]} by {claim.by}: leave out or change the one that is wrong"
            )
    if found.architecture is not None and found.cfg is not None:
        claims = _of_architecture(found, found.architecture, found.cfg, claims, quick_gelu)
    if not claims or (found.cfg is None and _is_foreign_script(found) and quick_gelu is None):
        _refuse_other_scripts(found)
        raise AmbiguousModelError(_question(found))
    cfg, pixels = found.cfg, found.preprocess_cfg
    if cfg is None:
        cfg, pixels = _by_shapes(found, claims[0])
    if pixels is None:
        raise AmbiguousModelError(
            f"{found.path} does not say how pictures are prepared for it, and no preprocessor_config.json lies beside "
            f"it: bring that file, or name the architecture, as in {_example(found)}"
        )
    cfg = replace(cfg, quick_gelu=claims[0].quick_gelu)
    return Described(found.checkpoint, cfg, pixels, found.path, found.home, found.format, claims[0].by)


def _of_architecture(
    found: Examined, arch: str, cfg: ModelCfg, claims: tuple[Claim, ...], quick_gelu: bool | None
) -> tuple[Claim, ...]:
    """What is said, with the architecture named among it: its name decides where nothing else is said.

    `quick_gelu=True` turns an architecture into its twin with QuickGELU. A name that has it cannot be turned back.
    """
    if not claims or claims[0].quick_gelu == cfg.quick_gelu or (quick_gelu and not cfg.quick_gelu):
        return (*claims, Claim(cfg.quick_gelu, f"the architecture named, {arch}"))
    own, named = ACTIVATIONS[claims[0].quick_gelu], ACTIVATIONS[cfg.quick_gelu]
    path, twin = found.path, _twin(arch, claims[0].quick_gelu)
    raise ConfigError(
        f"{path} has {own}, and {arch} has {named}: load it as {path}, or as {twin}:{path} (it has {own} by "
        f"{claims[0].by})"
    )


def _by_checksum(found: Examined) -> Examined:
    """A file without a word about itself, if its bytes are those of published weights."""
    if any(tensor.is_meta for tensor in found.checkpoint.state_dict.values()):
        return found
    if shards.is_index(found.path) or found.path.is_dir():
        return found
    fitting = shapes.fitting(found.checkpoint.state_dict)
    if not any(zoo.pretrained(arch, tag).sha256 for arch in fitting for tag in zoo.pretrained_tags(arch)):
        return found  # reading a large file once more would find nothing
    known = origin.published_with(hub.sha256_of(found.path))
    return known_as(found, known[0]) if known else found


def _by_shapes(found: Examined, claim: Claim) -> tuple[ModelCfg, PreprocessCfg]:
    """The one architecture with these shapes, its activation known; else OpenAI's form, if the file has that.

    OpenAI's form means heads of 64 numbers; published architectures of other heads are found by their shapes.
    """
    state_dict = found.checkpoint.state_dict
    fitting = shapes.fitting(state_dict)
    kinds = {
        str(replace(zoo.architecture(arch), quick_gelu=claim.quick_gelu)): arch for arch in fitting[::-1]
    }
    if len(kinds) == 1:
        arch = next(iter(kinds.values()))
        return zoo.architecture(arch), zoo.preprocess_of(arch)
    if len(kinds) > 1:
        raise AmbiguousModelError(
            f"{found.path} has the shapes of {' and '.join(kinds.values())}: name one, as in {_example(found)}"
        )
    if looks_like_openai(state_dict):
        try:
            cfg = infer_openai_config(state_dict)
        except CheckpointError as error:
            raise CheckpointError(f"{found.path}: {error}") from error
        return cfg, PreprocessCfg(size=cfg.vision_cfg.image_size)
    _refuse_other_scripts(found)
    raise AmbiguousModelError(
        f"{found.path} says neither what architecture it is of, nor do its shapes: {_nearest(found)}name it, as in "
        f"{_example(found)}, or put an open_clip_config.json beside it"
    )


def _question(found: Examined) -> str:
    """What is asked for a file of which nothing is known but its shapes, with all the ways out."""
    state_dict, path = found.checkpoint.state_dict, found.path
    kind = "does not say which activation it was trained with"
    if _is_script(found):
        kind = "is a TorchScript archive, but not with OpenAI's QuickGELU"
    fitting = shapes.fitting(state_dict)
    if fitting:
        examples = " or ".join(f"{arch}:{path}" for arch in fitting[:4])
        shown = ", ".join(fitting[:6])
        ways = f"its tensors have the shapes of {shown}: name one, as in {examples}"
    else:
        ways = (
            f"{_nearest(found)}name its architecture, as in ViT-B-32:{path} (or ViT-B-32-quickgelu:{path} for "
            "QuickGELU), or put an open_clip_config.json beside it"
        )
    if fitting or looks_like_openai(state_dict):
        ways += "; or say it by quick_gelu=True or quick_gelu=False in Python"
    if looks_like_openai(state_dict):
        ways += f"; or use clip.load({str(path)!r}) if it is OpenAI's, which takes it to have QuickGELU"
    return f"{path} {kind}: {ways}"


def _nearest(found: Examined) -> str:
    near = shapes.nearest(found.checkpoint.state_dict)
    return f"the nearest of the published architectures is {near[0]}; " if near and near[1] > 0.6 else ""


def _example(found: Examined) -> str:
    fitting = shapes.fitting(found.checkpoint.state_dict)
    return f"{fitting[0] if fitting else 'ViT-B-32'}:{found.path}"


def _is_script(found: Examined) -> bool:
    return found.checkpoint.format == "torchscript"


def _is_foreign_script(found: Examined) -> bool:
    """Whether it is an archive of OpenAI's kind but not OpenAI's: then its preprocessing is not known either."""
    return _is_script(found) and not all(claim.quick_gelu for claim in found.claims)


def _refuse_other_scripts(found: Examined) -> None:
    state_dict = found.checkpoint.state_dict
    if _is_script(found) and not looks_like_openai(state_dict) and not shapes.fitting(state_dict):
        raise CheckpointError(
            f"{found.path} is a TorchScript archive, but not of a model in the form of OpenAI's"
        )


def _twin(arch: str, quick_gelu: bool) -> str:
    """The same architecture with the other activation, by the names that these pairs have."""
    twin = f"{arch}-quickgelu" if quick_gelu else arch.removesuffix("-quickgelu")
    return twin if twin in zoo.architectures() else "ARCHITECTURE"
