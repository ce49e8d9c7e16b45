"""A name to what it means: the model in the wheel, published weights, a file, a folder, or a repository."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from oneclip.errors import AmbiguousModelError, ModelNotFoundError, UnknownModelError, nearest
from oneclip.zoo.catalogue import (
    OPENAI_NAMES,
    Pretrained,
    architectures,
    canonical_name,
    pretrained,
    pretrained_tags,
)

POCKET = "pocket"
# What to take for photographs, everywhere. As fast and small (605 MB) as OpenAI's ViT-B/32, under the MIT licence, and
# among the best of that size: 69.2 % zero-shot on ImageNet, OpenAI's has 63.2 % (Gadre et al. 2023, DataComp).
FOR_PHOTOGRAPHS = "ViT-B-32:datacomp_xl_s13b_b90k"
HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz")
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:/(?P<subfolder>[^@]+?))?/?(?:@(?P<revision>.+))?")
# as people copy it from the hub's pages, or from programs that know no other names
_HUB_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:(?:huggingface\.co|hf\.co)/)?(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)/?"
)


@dataclass(frozen=True)
class Source:
    """What a name means.

    Attributes:
        name: the name as it was given.
        kind: "pocket", the model in the wheel; "pretrained", published weights; "architecture-file", a file
            with weights for the architecture named; "file" and "folder", which have to say themselves what
            they are; "hub", a repository that does.
        architecture: for "pretrained" and "architecture-file".
        pretrained: for "pretrained": the facts of the weights.
        path: for "pocket", "architecture-file", "file" and "folder".
        repo, subfolder, revision: for "hub".
    """

    name: str
    kind: Literal["pocket", "pretrained", "architecture-file", "file", "folder", "hub"]
    architecture: str | None = None
    pretrained: Pretrained | None = None
    path: Path | None = None
    repo: str | None = None
    subfolder: str | None = None
    revision: str | None = None


def resolve(name: str | os.PathLike[str]) -> Source:
    """Find out what a name means, without opening or fetching anything.

    A known name comes before a file of that name: write `./RN50` for the file. A path object is always a
    path.

    Args:
        name: `pocket`, an OpenAI name (`ViT-B/32`), `ARCHITECTURE:tag`, `ARCHITECTURE:path/to/file`,
            `hf-hub:owner/name` (also `hf-hub:owner/name/subfolder@revision`), `local-dir:path`, or the path
            of a file or folder.

    Raises:
        UnknownModelError: if it means nothing; the message has the nearest names.
        ModelNotFoundError: if it is a path with no file or folder.
        AmbiguousModelError: for an architecture without weights; the message has those it could be given.
    """
    text = os.fspath(name)
    if isinstance(name, str):
        if text == POCKET:
            return Source(text, "pocket", path=pocket_path())
        if text.startswith(HUB_PREFIX):
            return _hub(text)
        if text.startswith(FOLDER_PREFIX):
            return _local(text, text.removeprefix(FOLDER_PREFIX), is_path=True)
        if text in OPENAI_NAMES:
            arch = OPENAI_NAMES[text]
            return Source(text, "pretrained", architecture=arch, pretrained=pretrained(arch, "openai"))
        arch_name, colon, rest = text.partition(":")
        if _is_architecture(arch_name):
            return _of_architecture(text, canonical_name(arch_name), rest if colon else None)
    return _local(text, text, is_path=not isinstance(name, str))


def pocket_path() -> Path:
    """Where the weights of the model in the wheel lie."""
    return Path(__file__).parent / "pocket.safetensors"


def _is_architecture(name: str) -> bool:
    try:
        canonical_name(name)
    except UnknownModelError:
        return False
    return True


def _of_architecture(name: str, arch: str, rest: str | None) -> Source:
    """`rest` is what stands behind the colon: a tag, or else a path."""
    tags = pretrained_tags(arch)
    if not rest:
        ways = [f"{arch}:{tag}" for tag in tags[:4]] + [f"{arch}:path/to/file"]
        raise AmbiguousModelError(f"{name!r} names an architecture but no weights; try {', '.join(ways)}")
    if rest not in tags:
        path, kind = _find(rest)
        if kind == "file":
            return Source(name, "architecture-file", architecture=arch, path=path)
        if kind == "folder":
            raise UnknownModelError(
                rest, kind="checkpoint file", hint="It is a folder: give its path alone, it says what it is."
            )
        if _looks_like_a_path(rest) or "/" in rest:
            raise ModelNotFoundError(rest, _neighbours(path), kind="file", hint=_missing(path))
    return Source(name, "pretrained", architecture=arch, pretrained=pretrained(arch, rest))


def _hub(name: str) -> Source:
    match = _HUB_NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    steps = re.split(r"[/\\]", "/".join(filter(None, match.groups()))) if match else []
    if not match or not {"", ".", ".."}.isdisjoint(steps):  # none may lead out of the repository
        raise UnknownModelError(
            name, kind="repository", hint="Write hf-hub:owner/name, or hf-hub:owner/name@revision."
        )
    return Source(
        name,
        "hub",
        repo=match["repo"],
        subfolder=match["subfolder"] or None,
        revision=match["revision"] or None,
    )


def _local(name: str, location: str, is_path: bool) -> Source:
    """Files and folders; `is_path` where the location cannot be meant as a name."""
    path, kind = _find(location)
    if kind is not None:
        return Source(name, kind, path=path)
    known = [POCKET, *OPENAI_NAMES, *architectures()]
    is_path = is_path or _looks_like_a_path(location)
    if (address := _HUB_ADDRESS.fullmatch(location)) and not (is_path or path.parent.is_dir()):
        hint = f"If it is a repository on the Hugging Face hub, write {HUB_PREFIX}{address['repo']}."
        raise UnknownModelError(location, known, kind="model, file or folder", hint=hint)
    if is_path or ("/" in location and not nearest(location, known)):
        raise ModelNotFoundError(location, _neighbours(path), kind="file or folder", hint=_missing(path))
    arch_name, colon, _ = location.partition(":")
    if colon:
        raise UnknownModelError(arch_name, known, kind="architecture", hint=f"(It was named by {name!r}.)")
    hint = "It is no file or folder; `oneclip models` lists the models."
    raise UnknownModelError(location, known, hint=hint)


def _find(location: str) -> tuple[Path, Literal["file", "folder"] | None]:
    """A path, and what lies there."""
    path = Path(location)
    try:
        path = path.expanduser()
        kind: Literal["file", "folder"] | None = (
            "file" if path.is_file() else "folder" if path.is_dir() else None
        )
    except (OSError, ValueError, RuntimeError):  # too long for a name, or of a user that there is not
        return path, None
    return path, kind if location else None


def _looks_like_a_path(text: str) -> bool:
    """Whether a person who wrote this can only have meant a file or folder."""
    starts = (".", "~", "/", "\\")
    return text.startswith(starts) or "\\" in text or text.lower().endswith(_CHECKPOINT_SUFFIXES)


def _neighbours(path: Path) -> list[str]:
    """Files beside a missing one, as a person would write them."""
    try:
        return [str(path.with_name(entry.name)) for entry in path.parent.iterdir()][:1000]
    except (OSError, ValueError):
        return []


def _missing(path: Path) -> str:
    return f"There is no {path.absolute()}."
