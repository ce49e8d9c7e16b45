"""A folder or a repository to the files in it, by the names that they usually have."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from oneclip import hub

CONFIG = "open_clip_config.json"
THEIR_CONFIG = "config.json"  # of a folder as transformers writes it
TRAINING, TRAINING_TABLE = "training.json", ".metadata"  # of a checkpoint of several processes
PIXELS = ("preprocessor_config.json", "processor_config.json")
WEIGHTS = (
    *hub.HUB_WEIGHTS,
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin.index.json",
    "open_clip_pytorch_model.pth",
)
THEIR_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "model.pth",
    "model.pt",
)


class Place(Protocol):
    """Where files lie beside each other."""

    @property
    def home(self) -> str | Path:
        """What a tokenizer is looked for in."""

    def first(self, names: Sequence[str]) -> Path | None:
        """The first of these files that is there, brought here if need be."""

    def fetch(self, name: str) -> Path:
        """A file that should be there; the path of none if it is not."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    @property
    def home(self) -> Path:
        """The folder."""
        return self.path

    def first(self, names: Sequence[str]) -> Path | None:
        """The first of these files that is there."""
        return next((self.path / name for name in names if (self.path / name).is_file()), None)

    def fetch(self, name: str) -> Path:
        """Where a file of that name lies, if it does."""
        return self.path / name


@dataclass(frozen=True)
class Repository:
    """A repository on the Hugging Face hub, or a folder of one."""

    repo: str
    subfolder: str | None = None
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None

    @property
    def home(self) -> str:
        """Its address, as `zoo.resolve` reads it."""
        subfolder = f"/{self.subfolder}" if self.subfolder else ""
        return f"hf-hub:{self.repo}{subfolder}" + (f"@{self.revision}" if self.revision else "")

    def first(self, names: Sequence[str]) -> Path | None:
        """The first of these files that the repository has.

        Raises:
            DownloadError: if it cannot be reached.
        """
        return hub.find_hub_file(self.repo, names, **self._where)  # type: ignore[arg-type]

    def fetch(self, name: str | Sequence[str]) -> Path:
        """A file of the repository, or the first of several.

        Raises:
            DownloadError: if it has none of that name, or cannot be reached.
        """
        return hub.hub_file(self.repo, name, **self._where)  # type: ignore[arg-type]

    def at_commit_of(self, path: Path) -> Repository:
        """The same, at the commit that a file of it came from: its branch may move on meanwhile."""
        depth = len(Path(self.subfolder).parts) if self.subfolder else 0
        return replace(self, revision=path.parents[depth].name)

    @property
    def _where(self) -> dict[str, object]:
        return {"subfolder": self.subfolder, "revision": self.revision, "cache_dir": self.cache_dir}
