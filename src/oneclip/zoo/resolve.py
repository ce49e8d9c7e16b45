"""Resolve the name of a model: published weights, a file, a folder, a Hugging Face repository or the pocket model."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from oneclip.errors import AmbiguousModelError, ModelNotFoundError, UnknownModelError, nearest_names
from oneclip.zoo.catalogue import (
    OPENAI_NAMES,
    Pretrained,
    architectures,
    canonical_name,
    pretrained,
    pretrained_tags,
)

POCKET = "pocket"
RECOMMENDED_FOR_PHOTOS = "ViT-B-32-256:datacomp_s34b_b86k"
"""The model we recommend for photographs.

Of the published models that run fast on a CPU (under 20 GFLOPs per image) it has the best zero-shot accuracy on
ImageNet (72.8 %). MIT licence, 605 MB.
"""
HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"
_CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz")
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+(?:/[\w.-]+?)?)(?:/(?P<subfolder>[^@]+?))?/?(?:@(?P<revision>.+))?")
# An address as people copy it from the hub's pages, or from programs that only know hub names.
_HUB_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:(?:huggingface\.co|hf\.co)/)?(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)/?"
)


class HubAddress(NamedTuple):
    """A place on the Hugging Face hub; `str()` gives `hf-hub:owner/name[/subfolder][@revision]`.

    Attributes:
        repo: `owner/name`; a few old repositories have a name only.
        subfolder: folder inside the repository.
        revision: branch, tag or commit.
    """

    repo: str
    subfolder: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        folder = f"/{self.subfolder}" if self.subfolder else ""
        return f"{HUB_PREFIX}{self.repo}{folder}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_address(text: str) -> HubAddress | None:
    """Parse `[hf-hub:]owner/name[/subfolder][@revision]`.

    Returns:
        The address; None if the text is not one, or if a part of it is empty, `.` or `..`.
    """
    match = _HUB_NAME.fullmatch(text.removeprefix(HUB_PREFIX))
    if not match:
        return None
    steps = re.split(r"[/\\]", "/".join(filter(None, match.groups())))
    if not {"", ".", ".."}.isdisjoint(steps):
        return None
    return HubAddress(match["repo"], match["subfolder"] or None, match["revision"] or None)


@dataclass(frozen=True)
class ModelSource:
    """The meaning of a model's name.

    Attributes:
        name: the name as given.
        kind: "pocket", the model inside the package; "pretrained", published weights; "architecture-file", a weights
            file together with the name of its architecture; "file", "folder" and "hub" (a repository), which describe
            themselves.
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


def resolve(name: str | os.PathLike[str]) -> ModelSource:
    """Find out what a name means, without opening or downloading anything.

    A known name has priority over a file of the same name: write `./RN50` for the file. A path object is always a path.

    Args:
        name: `pocket`, an OpenAI name (`ViT-B/32`), `ARCHITECTURE:tag`, `ARCHITECTURE:path/to/file`,
            `hf-hub:owner/name` (also `hf-hub:owner/name/subfolder@revision`), `local-dir:path`, or the path of a file
            or folder.

    Raises:
        UnknownModelError: if the name is unknown; the message lists the nearest names.
        ModelNotFoundError: if it is a path and nothing exists there.
        AmbiguousModelError: for an architecture without weights; the message lists available weights.
    """
    text = os.fspath(name)
    if isinstance(name, str):
        if text == POCKET:
            return ModelSource(text, "pocket", path=pocket_path())
        if text.startswith(HUB_PREFIX):
            return _resolve_repository(text)
        if text.startswith(FOLDER_PREFIX):
            return _resolve_path(text, text.removeprefix(FOLDER_PREFIX), is_path=True)
        if text in OPENAI_NAMES:
            arch = OPENAI_NAMES[text]
            return ModelSource(text, "pretrained", architecture=arch, pretrained=pretrained(arch, "openai"))
        arch_name, colon, rest = text.partition(":")
        if _is_architecture(arch_name):
            return _resolve_architecture(text, canonical_name(arch_name), rest if colon else None)
    return _resolve_path(text, text, is_path=not isinstance(name, str))


def pocket_path() -> Path:
    """Return the path of the weights inside the package."""
    return Path(__file__).parent / "pocket.safetensors"


def _is_architecture(name: str) -> bool:
    try:
        canonical_name(name)
    except UnknownModelError:
        return False
    return True


def _resolve_architecture(name: str, arch: str, weights: str | None) -> ModelSource:
    """Resolve `ARCHITECTURE:weights`, where the weights are a tag or the path of a file."""
    tags = pretrained_tags(arch)
    if not weights:
        examples = [f"{arch}:{tag}" for tag in tags[:4]] + [f"{arch}:path/to/file"]
        raise AmbiguousModelError(f"{name!r} names an architecture but no weights; try {', '.join(examples)}")
    if weights not in tags:
        path, kind = local_path(weights)
        if kind == "file":
            return ModelSource(name, "architecture-file", architecture=arch, path=path)
        if kind == "folder":
            hint = "It is a folder: give only its path, without the architecture."
            raise UnknownModelError(weights, kind="checkpoint file", hint=hint)
        if _looks_like_a_path(weights) or "/" in weights:
            raise ModelNotFoundError(weights, _neighbours(path), kind="file", hint=_missing(path))
    return ModelSource(name, "pretrained", architecture=arch, pretrained=pretrained(arch, weights))


def _resolve_repository(name: str) -> ModelSource:
    address = parse_hub_address(name)
    if address is None or "/" not in address.repo:
        hint = f"Write {HUB_PREFIX}owner/name, or {HUB_PREFIX}owner/name@revision."
        raise UnknownModelError(name, kind="repository", hint=hint)
    return ModelSource(name, "hub", **address._asdict())


def _resolve_path(name: str, location: str, is_path: bool) -> ModelSource:
    """Resolve a file or folder.

    Args:
        name: the whole name, for messages.
        location: the name without `local-dir:`.
        is_path: True if the location cannot be the name of a model.
    """
    path, kind = local_path(location)
    if kind is not None:
        return ModelSource(name, kind, path=path)
    known = [POCKET, *OPENAI_NAMES, *architectures()]
    is_path = is_path or _looks_like_a_path(location)
    if (url := _HUB_URL.fullmatch(location)) and not (is_path or path.parent.is_dir()):
        hint = f"If it is a repository on the Hugging Face hub, write {HUB_PREFIX}{url['repo']}."
        raise UnknownModelError(location, known, kind="model, file or folder", hint=hint)
    if is_path or ("/" in location and not nearest_names(location, known)):
        raise ModelNotFoundError(location, _neighbours(path), kind="file or folder", hint=_missing(path))
    arch_name, colon, _ = location.partition(":")
    if colon:
        raise UnknownModelError(arch_name, known, kind="architecture", hint=f"(It was named by {name!r}.)")
    hint = "No file or folder has this name; `oneclip models` lists the models."
    raise UnknownModelError(location, known, hint=hint)


def local_path(location: str) -> tuple[Path, Literal["file", "folder"] | None]:
    """Return a path, and report whether it is a file, a folder or neither.

    Unlike `Path.is_file`, this does not raise an error for a name that no path can have, such as one that is too long.
    """
    path = Path(location)
    try:
        path = path.expanduser()
        kind: Literal["file", "folder"] | None = (
            "file" if path.is_file() else "folder" if path.is_dir() else None
        )
    except (OSError, ValueError, RuntimeError):  # the name is too long, or `~user` does not exist
        return path, None
    return path, kind if location else None


def _looks_like_a_path(text: str) -> bool:
    """Check whether a text can only be the path of a file or folder."""
    starts = (".", "~", "/", "\\")
    return text.startswith(starts) or "\\" in text or text.lower().endswith(_CHECKPOINT_SUFFIXES)


def _neighbours(path: Path) -> list[str]:
    """List the files next to a missing file, for suggestions."""
    try:
        return [str(path.with_name(entry.name)) for entry in path.parent.iterdir()][:1000]
    except (OSError, ValueError):
        return []


def _missing(path: Path) -> str:
    return f"{path.absolute()} does not exist."
