"""What a person is looking for (words, family, tag, size, resolution) to the models that fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from oneclip.errors import UnknownModelError
from oneclip.zoo.catalogue import (
    OPENAI_NAMES,
    Pretrained,
    architecture,
    architectures,
    pretrained,
    pretrained_tags,
)
from oneclip.zoo.families import Kind, Parameters, extras, family, kind, known_family, parameters
from oneclip.zoo.resolve import POCKET

CLIP_TOKENIZER = "CLIP"
_OPENAI = {arch: name for name, arch in OPENAI_NAMES.items()}


@dataclass(frozen=True)
class Found:
    """One model of the zoo.

    Attributes:
        name: what to give to `oneclip.load`; an architecture alone if it has no published weights.
        architecture: its shape.
        tag: which of the trained weights of that architecture, if there are any.
        family: as in `zoo.families()`.
        kind: where its towers come from, as in `zoo.kind`.
        extras: what must be installed beside the core, as in `zoo.extras`.
        parameters: how many numbers it consists of.
        image_size: (height, width) of the pictures it sees, in pixels.
        embed_dim: the width of the joint embedding.
        context_length: how many tokens of a caption it reads.
        tokenizer: "CLIP", or the repository that has it.
        pretrained: the facts of the weights, if there are any.
        imagenet: accuracy (top-1, 0 to 1) of zero-shot classification of ImageNet-1k's validation images, as published
            by open_clip; None where it published none.
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
) -> list[Found]:
    """Find models that can be loaded; everything asked for must fit.

    Weights that have two names (`ViT-B-32:openai` is `ViT-B-32-quickgelu:openai`) come once, and OpenAI's come first.

    Args:
        text: words that the name contains, whatever their case; `/`, `_` and `-` count as the same.
        family: one of `families()`.
        tag: of the weights: the whole of it, or words of it as `text` has them.
        resolution: height or width in pixels of the pictures it sees.
        min_params, max_params: how many numbers it may consist of.
        untrained: list architectures that have no published weights, too.

    Returns:
        perhaps nothing.

    Raises:
        UnknownModelError: if there is no such family, or no tag with these words; the message has the nearest.
    """
    wanted = known_family(family) if family is not None else None
    candidates = everything(untrained=untrained)
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


def everything(*, untrained: bool = False) -> list[Found]:
    """All models that can be loaded, OpenAI's first; each once, under the first of its names.

    Args:
        untrained: list architectures that have no published weights, too.
    """
    seen: set[tuple[object, ...]] = set()
    listed = []
    for arch, tag in _weights():
        weights, cfg = pretrained(arch, tag), architecture(arch)
        activation = cfg.quick_gelu if weights.quick_gelu is None else weights.quick_gelu
        published = (weights.url, weights.hf_hub, activation, cfg.vision_cfg.image_size)
        if published not in seen:
            seen.add(published)
            listed.append(_found(arch, weights))
    if untrained:
        listed += [_found(arch) for arch in architectures() if not pretrained_tags(arch)]
    return listed


def list_models(text: str | None = None) -> list[str]:
    """List the names of the published models that `oneclip.load` takes; `search` has more to choose by.

    Args:
        text: words that the name contains, as of `search`; None for all.

    Returns:
        "pocket" first, then OpenAI's; perhaps nothing.
    """
    own = [POCKET] if _has_words(POCKET, text or "") else []
    return own + [found.name for found in search(text)]


def _weights() -> Iterator[tuple[str, str]]:
    for arch in OPENAI_NAMES.values():
        yield arch, "openai"
    for arch in architectures():
        for tag in pretrained_tags(arch):
            yield arch, tag


def _found(arch: str, weights: Pretrained | None = None) -> Found:
    cfg = architecture(arch)
    size = cfg.vision_cfg.image_size
    name = f"{arch}:{weights.tag}" if weights else arch
    return Found(
        name=_OPENAI[arch] if weights and weights.tag == "openai" and arch in _OPENAI else name,
        architecture=arch,
        tag=weights.tag if weights else None,
        family=family(arch),
        kind=kind(arch),
        extras=extras(arch),
        parameters=parameters(arch),
        image_size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        embed_dim=cfg.embed_dim,
        context_length=cfg.text_cfg.context_length,
        tokenizer=cfg.text_cfg.hf_tokenizer_name or CLIP_TOKENIZER,
        pretrained=weights,
        imagenet=_accuracy().get(f"{arch.removesuffix('-quickgelu')}:{weights.tag}") if weights else None,
    )


@cache
def _accuracy() -> dict[str, float]:
    """ImageNet accuracy by name; weights that have a twin with -quickgelu are named without it."""
    text = (Path(__file__).parent / "accuracy.json").read_text(encoding="utf-8")
    table: dict[str, float] = json.loads(text)
    return table


def _names(found: Found) -> list[str]:
    """The names that a model is searched by."""
    names = [found.name, found.family.replace(" ", "")]
    return [*names, f"{found.architecture}:{found.tag}"] if found.tag else names


def _has_words(name: str, words: str) -> bool:
    return all(word in _folded(name) for word in _folded(words).split())


def _folded(name: str) -> str:
    """A name as people search for it: OpenAI writes ViT-B/32 what others write ViT-B-32."""
    return name.lower().replace("/", "-").replace("_", "-")
