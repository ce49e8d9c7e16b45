"""Search the zoo by words, family, tag, number of parameters or resolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from oneclip.config import as_pair
from oneclip.errors import UnknownModelError
from oneclip.zoo.catalogue import (
    OPENAI_NAMES,
    Pretrained,
    architecture,
    architectures,
    pretrained,
    pretrained_tags,
    read_table,
)
from oneclip.zoo.families import Kind, Parameters, canonical_family, extras, family, kind, parameters
from oneclip.zoo.resolve import POCKET

CLIP_TOKENIZER = "CLIP"
_OPENAI = {arch: name for name, arch in OPENAI_NAMES.items()}


@dataclass(frozen=True)
class ModelInfo:
    """One model of the zoo.

    Attributes:
        name: argument for `oneclip.load`; only an architecture if it has no published weights.
        architecture: name of its architecture.
        tag: which of the pretrained weights of that architecture, if any.
        family: as in `zoo.families()`.
        kind: which library implements its towers, as in `zoo.kind`.
        extras: required extras, as in `zoo.extras`.
        parameters: number of parameters.
        image_size: (height, width) of its input images, in pixels.
        embed_dim: width of the joint embedding.
        context_length: maximum number of tokens of a text.
        tokenizer: "CLIP", or the repository of another tokenizer.
        pretrained: the facts of the weights, if any.
        imagenet: zero-shot accuracy (top-1, 0 to 1) on the validation images of ImageNet-1k, as published by open_clip;
            None if open_clip published none.
    """

    name: str
    architecture: str
    tag: str | None
    family: str
    kind: Kind
    extras: tuple[str, ...]
    parameters: Parameters
    image_size: tuple[int, int]
    embed_dim: int
    context_length: int
    tokenizer: str
    pretrained: Pretrained | None = None
    imagenet: float | None = None


def search(
    text: str | None = None,
    *,
    family: str | None = None,
    tag: str | None = None,
    resolution: int | None = None,
    min_params: float | None = None,
    max_params: float | None = None,
    untrained: bool = False,
) -> list[ModelInfo]:
    """Find models that can be loaded; all criteria must match.

    Weights with two names (`ViT-B-32:openai` is `ViT-B-32-quickgelu:openai`) are listed once. OpenAI's are first.

    Args:
        text: words that the name contains, ignoring case; `/`, `_` and `-` are equal.
        family: one of `families()`.
        tag: tag of the weights, or words that it contains.
        resolution: height or width of the input images in pixels.
        min_params, max_params: limits of the number of parameters.
        untrained: also list architectures without published weights.

    Returns:
        The models found; possibly an empty list.

    Raises:
        UnknownModelError: if no family or tag matches; the message lists the nearest names.
    """
    wanted = canonical_family(family) if family is not None else None
    candidates = all_models(untrained=untrained)
    if tag is not None:
        tags = {found.tag for found in candidates if found.tag}
        if not any(_has_words(each, tag) for each in tags):
            raise UnknownModelError(tag, sorted(tags), kind="tag", hint="`oneclip models` lists them.")
    return [
        found
        for found in candidates
        if (text is None or _has_words(" ".join(_names(found)), text))
        and (wanted is None or found.family == wanted)
        and (tag is None or _has_words(found.tag or "", tag))
        and (resolution is None or resolution in found.image_size)
        and (min_params is None or found.parameters.total >= min_params)
        and (max_params is None or found.parameters.total <= max_params)
    ]


def all_models(*, untrained: bool = False) -> list[ModelInfo]:
    """List all models that can be loaded, OpenAI's first; each once, under the first of its names.

    Args:
        untrained: also list architectures without published weights.
    """
    seen: set[tuple[object, ...]] = set()
    listed = []
    for arch, tag in _weights():
        weights, cfg = pretrained(arch, tag), architecture(arch)
        activation = cfg.quick_gelu if weights.quick_gelu is None else weights.quick_gelu
        key = (weights.url, weights.hf_hub, activation, cfg.vision_cfg.image_size)
        if key not in seen:
            seen.add(key)
            listed.append(_info(arch, weights))
    if untrained:
        listed += [_info(arch) for arch in architectures() if not pretrained_tags(arch)]
    return listed


def list_models(text: str | None = None) -> list[str]:
    """List the names of the published models that `oneclip.load` accepts; `search` has more criteria.

    Args:
        text: words that the name contains, as in `search`; None for all models.

    Returns:
        "pocket" first, then OpenAI's; possibly an empty list.
    """
    own = [POCKET] if _has_words(POCKET, text or "") else []
    return own + [found.name for found in search(text)]


def _weights() -> Iterator[tuple[str, str]]:
    for arch in OPENAI_NAMES.values():
        yield arch, "openai"
    for arch in architectures():
        for tag in pretrained_tags(arch):
            yield arch, tag


def _info(arch: str, weights: Pretrained | None = None) -> ModelInfo:
    cfg = architecture(arch)
    size = cfg.vision_cfg.image_size
    name = f"{arch}:{weights.tag}" if weights else arch
    return ModelInfo(
        name=_OPENAI[arch] if weights and weights.tag == "openai" and arch in _OPENAI else name,
        architecture=arch,
        tag=weights.tag if weights else None,
        family=family(arch),
        kind=kind(arch),
        extras=extras(arch),
        parameters=parameters(arch),
        image_size=as_pair(size),
        embed_dim=cfg.embed_dim,
        context_length=cfg.text_cfg.context_length,
        tokenizer=cfg.text_cfg.hf_tokenizer_name or CLIP_TOKENIZER,
        pretrained=weights,
        imagenet=_accuracy().get(f"{arch.removesuffix('-quickgelu')}:{weights.tag}") if weights else None,
    )


@cache
def _accuracy() -> dict[str, float]:
    """Return the accuracy on ImageNet by name, without the suffix -quickgelu."""
    return read_table("accuracy.json")


def _names(found: ModelInfo) -> list[str]:
    """Return the names by which a model can be found."""
    names = [found.name, found.family.replace(" ", "")]
    return [*names, f"{found.architecture}:{found.tag}"] if found.tag else names


def _has_words(name: str, words: str) -> bool:
    return all(word in _folded(name) for word in _folded(words).split())


def _folded(name: str) -> str:
    """Normalize a name for searching: OpenAI writes ViT-B/32, others write ViT-B-32."""
    return name.lower().replace("/", "-").replace("_", "-")
