"""Resolve what is said about a checkpoint into one configuration, or into the question that is left.

The activation of weights is said by the file itself, by the published weights that it is known to be, by the
caller's `quick_gelu`, or by the architecture named. They must agree. Shapes say nothing about it, nor about heads and
preprocessing: where nobody does, it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from oneclip import hub, zoo
from oneclip.checkpoint.readers import safetensors_index
from oneclip.checkpoint.readers.read import Checkpoint
from oneclip.checkpoint.resolve import identify_published, match_architecture
from oneclip.checkpoint.resolve.attention_heads import Heads, check_heads, heads_of, of_both, with_heads
from oneclip.checkpoint.resolve.end_of_text import pooled_at_end
from oneclip.checkpoint.resolve.evidence import Claim, Examined, examine, has_openais_numbers, known_as
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.resolve.unsupported_files import what_it_is
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import AmbiguousModelError, CheckpointError, ConfigError

Preprocessing: TypeAlias = str | Mapping[str, Any] | PreprocessCfg
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
        notes: what was assumed about it, a sentence each.
    """

    checkpoint: Checkpoint
    cfg: ModelCfg
    preprocess_cfg: PreprocessCfg
    path: Path
    home: str | Path | None = None
    format: str = ""
    activation: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Said:
    """What the caller says about weights, for files that do not say it; None where nothing is said.

    Attributes:
        quick_gelu: whether the activation is QuickGELU.
        heads: of both towers, or (image tower, text tower).
        preprocess: "openai", or the fields of a `PreprocessCfg`; without a size, the model's image size.
    """

    quick_gelu: bool | None = None
    heads: Heads | None = None
    preprocess: Preprocessing | None = None

    def pixels(self, cfg: ModelCfg) -> PreprocessCfg | None:
        """`preprocess` as a configuration, for a model.

        Raises:
            ConfigError: if it is neither "openai" nor fields of a `PreprocessCfg`.
        """
        if self.preprocess is None or isinstance(self.preprocess, PreprocessCfg):
            return self.preprocess
        fields = {} if self.preprocess == "openai" else self.preprocess
        if not isinstance(fields, Mapping):
            raise ConfigError(
                f"preprocess is {self.preprocess!r}; 'openai' or a mapping of fields of a PreprocessCfg was expected"
            )
        return PreprocessCfg.from_dict({"size": cfg.vision_cfg.image_size} | dict(fields))


NOTHING = Said()


def describe(
    source: zoo.Source,
    cache_dir: str | os.PathLike[str] | None = None,
    said: Said = NOTHING,
    *,
    part: str | None = None,
    prefix: str | None = None,
    values: bool = True,
) -> Described:
    """Get the file that a name means, and what is known about it; the arguments and errors are those of `load`.

    Args:
        source: what `zoo.resolve` made of the name.
        said: what the caller says about the weights.
        values: False to read only what describes the tensors, which are then on the meta device: for those who
            want to know what a model is, and not its weights.
    """
    found = examine(source, cache_dir=cache_dir, part=part, prefix=prefix, values=values)
    return settled(found, said, cache_dir)


def settled(
    found: Examined, said: Said = NOTHING, cache_dir: str | os.PathLike[str] | None = None
) -> Described:
    """One configuration and one preprocessing out of everything that is said.

    Args:
        found: the file, and what is said about it.
        said: what the caller says.
        cache_dir: where downloads are kept, instead of the usual folders.

    Raises:
        ConfigError: where two contradict each other.
        AmbiguousModelError: where nobody says something that has to be known; the message has the ways out.
    """
    if what := what_it_is(found.checkpoint.state_dict):
        raise CheckpointError(f"{found.path} {what}")
    quick_gelu, heads = said.quick_gelu, None if said.heads is None else of_both(said.heads)
    if found.cfg is None and not found.claims and quick_gelu is None:
        found = _by_checksum(found)
    claims = found.claims
    if quick_gelu is not None:
        claims = (*claims, Claim(quick_gelu, "quick_gelu="))
    _check_agree(found.path, claims)
    left = ", ".join(found.checkpoint.left_out[:6])
    notes = [f"{found.path} also holds {left}, not used"] if left else []
    notes += [_assumed(found)] if found.bare else []
    if found.architecture is not None and found.cfg is not None:
        claims = _of_architecture(found, found.architecture, found.cfg, claims, quick_gelu)
    if not claims or (found.cfg is None and _is_foreign_script(found) and quick_gelu is None):
        _refuse_other_scripts(found)
        raise AmbiguousModelError(_question(found, said))
    cfg, pixels = found.cfg, found.preprocess_cfg
    if cfg is None:
        cfg, pixels, note = _by_shapes(found, claims[0], said)
        notes += [note] if note else []
    elif heads is not None:
        check_heads(cfg, heads, found.path, "heads=")
    if said.preprocess is not None:
        if found.preprocess_cfg not in (None, said.pixels(cfg)) and not found.bare:
            raise ConfigError(
                f"{found.path} says how images are prepared for it, and preprocess= says otherwise: leave it out, or "
                "change what lies beside the file"
            )
        pixels = said.pixels(cfg)
    if pixels is None:
        raise AmbiguousModelError(
            f"{found.path} does not say how images are prepared for it, and no preprocessor_config.json lies beside "
            f"it: bring that file, say it by preprocess=, or name the architecture, as in {_example(found)}"
        )
    cfg = replace(cfg, quick_gelu=claims[0].quick_gelu)
    if found.architecture is None:
        cfg = pooled_at_end(cfg, found.home, cache_dir)
    return Described(
        found.checkpoint, cfg, pixels, found.path, found.home, found.format, claims[0].by, tuple(notes)
    )


def _check_agree(path: Path, claims: tuple[Claim, ...]) -> None:
    """Raise ConfigError if two say of the activation what cannot both be true."""
    for claim in claims[1:]:
        if claim.quick_gelu != claims[0].quick_gelu:
            raise ConfigError(
                f"{path} has {ACTIVATIONS[claims[0].quick_gelu]} by {claims[0].by}, and "
                f"{ACTIVATIONS[claim.quick_gelu]} by {claim.by}: leave out or change the one that is wrong"
            )


def _assumed(found: Examined) -> str:
    """What is taken from an architecture for a file that says nothing about itself."""
    assert found.cfg is not None
    numbers = [str(count) for count in heads_of(found.cfg) if count is not None]
    facts = [] if found.claims else [ACTIVATIONS[found.cfg.quick_gelu]]
    facts += [f"{' and '.join(numbers)} heads"] if numbers else []
    taken = ", ".join([*facts, "preprocessing"])
    return f"{found.path} does not say what it is: {taken} are taken from {found.architecture}"


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
    if safetensors_index.is_index(found.path) or found.path.is_dir():
        return found
    fitting = match_architecture.fitting(found.checkpoint.state_dict)
    if not any(zoo.pretrained(arch, tag).sha256 for arch in fitting for tag in zoo.pretrained_tags(arch)):
        return found  # reading a large file once more would find nothing
    known = identify_published.published_with(hub.sha256_of(found.path))
    return known_as(found, known[0]) if known else found


def _by_shapes(
    found: Examined, claim: Claim, said: Said
) -> tuple[ModelCfg, PreprocessCfg | None, str | None]:
    """The architecture with these shapes, its activation known; else OpenAI's form, its heads and preprocessing known.

    Returns:
        Its configuration, its preprocessing, and a note on what was assumed, if anything.
    """
    state_dict, path = found.checkpoint.state_dict, found.path
    exact = {arch: zoo.architecture(arch) for arch in match_architecture.fitting(state_dict)}
    fitting = exact or match_architecture.resized(state_dict)
    if said.heads is not None:
        heads = of_both(said.heads)
        fitting = {arch: with_heads(cfg, heads, path) for arch, cfg in fitting.items()}
    kinds = {
        str(replace(cfg, quick_gelu=claim.quick_gelu)): arch for arch, cfg in list(fitting.items())[::-1]
    }
    if len(kinds) > 1:
        raise AmbiguousModelError(
            f"{path} has the shapes of {' and '.join(kinds.values())}: name one, as in {_example(found)}"
        )
    if kinds:
        arch = next(iter(kinds.values()))
        cfg, pixels = fitting[arch], zoo.preprocess_of(arch)
        taken = [
            fact
            for fact, value in (("heads", said.heads), ("preprocessing", said.preprocess))
            if value is None
        ]
        if exact or not taken:
            return cfg, pixels, None
        note = f"{path} has the shapes of {arch} {_sizes(cfg)}: {' and '.join(taken)} are taken from it"
        return cfg, replace(pixels, size=cfg.vision_cfg.image_size), note
    if looks_like_openai(state_dict):
        if not _is_openais(found) and None in (said.heads, said.preprocess):
            raise AmbiguousModelError(_question(found, replace(said, quick_gelu=claim.quick_gelu)))
        try:
            cfg = infer_openai_config(state_dict, None if said.heads is None else of_both(said.heads))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return cfg, said.pixels(cfg) or PreprocessCfg(size=cfg.vision_cfg.image_size), None
    _refuse_other_scripts(found)
    raise AmbiguousModelError(
        f"{path} says neither what architecture it is of, nor do its shapes: {_nearest(found)}name it, as in "
        f"{_example(found)}, or put an open_clip_config.json beside it"
    )


def _sizes(cfg: ModelCfg) -> str:
    return f"for {cfg.vision_cfg.image_size} pixels and {cfg.text_cfg.context_length} tokens"


def _question(found: Examined, said: Said) -> str:
    """What is asked for a file of which nothing is known but its shapes, with all the ways out."""
    state_dict, path = found.checkpoint.state_dict, found.path
    kind = "does not say which activation it was trained with"
    if _is_script(found):
        kind = "is a TorchScript archive, but not with OpenAI's QuickGELU"
    fitting = match_architecture.fitting(state_dict)
    is_flat = looks_like_openai(state_dict)
    if is_flat and not fitting and not match_architecture.resized(state_dict):
        return _question_of_unpublished(found, said)
    if fitting:
        examples = " or ".join(f"{arch}:{path}" for arch in fitting[:4])
        shown = ", ".join(fitting[:6])
        ways = f"its tensors have the shapes of {shown}: name one, as in {examples}"
    else:
        ways = (
            f"{_nearest(found)}name its architecture, as in ViT-B-32:{path} (or ViT-B-32-quickgelu:{path} for "
            "QuickGELU), or put an open_clip_config.json beside it"
        )
    if not fitting and (resized := next(iter(match_architecture.resized(state_dict).items()), None)):
        ways = f"its tensors have the shapes of {resized[0]} {_sizes(resized[1])}"
    if fitting or is_flat:
        ways += "; say it by quick_gelu=True or quick_gelu=False in Python"
    if is_flat:
        ways += f"; or use clip.load({str(path)!r}) if it is OpenAI's, which takes it to have QuickGELU"
    return f"{path} {kind}: {ways}"


def _question_of_unpublished(found: Examined, said: Said) -> str:
    """What is asked for a file in OpenAI's form that has the shapes of no published architecture."""
    path, numbers = found.path, _is_openais(found)
    missing = {}
    if said.quick_gelu is None:
        missing["which activation it was trained with"] = "quick_gelu=True or quick_gelu=False"
    if said.heads is None and not numbers:
        missing["how many heads it has"] = "heads=N, or heads=(image tower, text tower)"
    if said.preprocess is None and not numbers:
        missing["how images are prepared for it"] = "preprocess='openai', or fields such as mean and std"
    what, ways = ", ".join(missing), "; ".join(missing.values())
    kind = (
        "is a TorchScript archive, but not with OpenAI's QuickGELU; it " if _is_foreign_script(found) else ""
    )
    return (
        f"{path} {kind}has the shapes of no published architecture, and does not say {what}. Say it ({ways}), put an "
        f"open_clip_config.json beside it, or use clip.load({str(path)!r}), which takes such a file to have "
        "QuickGELU, heads that are 64 wide, and OpenAI's preprocessing"
    )


def _nearest(found: Examined) -> str:
    near = match_architecture.nearest(found.checkpoint.state_dict)
    return f"the nearest of the published architectures is {near[0]}; " if near and near[1] > 0.6 else ""


def _example(found: Examined) -> str:
    fitting = match_architecture.fitting(found.checkpoint.state_dict)
    return f"{fitting[0] if fitting else 'ViT-B-32'}:{found.path}"


def _is_openais(found: Examined) -> bool:
    """Whether OpenAI's programs wrote it: then its heads and its preprocessing are theirs."""
    return has_openais_numbers(found.checkpoint) and not _is_foreign_script(found)


def _is_script(found: Examined) -> bool:
    return found.checkpoint.format == "torchscript"


def _is_foreign_script(found: Examined) -> bool:
    """Whether it is an archive of OpenAI's kind but not OpenAI's: then its preprocessing is not known either."""
    return _is_script(found) and not all(claim.quick_gelu for claim in found.claims)


def _refuse_other_scripts(found: Examined) -> None:
    state_dict = found.checkpoint.state_dict
    if _is_script(found) and not looks_like_openai(state_dict) and not match_architecture.fitting(state_dict):
        raise CheckpointError(
            f"{found.path} is a TorchScript archive, but not of a model in the form of OpenAI's"
        )


def _twin(arch: str, quick_gelu: bool) -> str:
    """The same architecture with the other activation, by the names that these pairs have."""
    twin = f"{arch}-quickgelu" if quick_gelu else arch.removesuffix("-quickgelu")
    return twin if twin in zoo.architectures() else "ARCHITECTURE"
