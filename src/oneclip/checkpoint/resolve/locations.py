"""Find the files of a model in a folder or a Hugging Face repository, by their usual names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from oneclip import hub, zoo
from oneclip.errors import CheckpointError

OPEN_CLIP_CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = (
    *hub.HUB_WEIGHTS,
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin.index.json",
    "open_clip_pytorch_model.pth",
)
HF_CONFIG = "config.json"
HF_PREPROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
HF_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "pytorch_model.pth",
    "model.pth",
    "model.pt",
)
TRAINING_FILE, DCP_METADATA = "training.json", ".metadata"  # of a checkpoint written by several processes
SENTENCE_TRANSFORMERS_MODULES = "modules.json"
MAX_MODULES_BYTES = 2**16
MAX_FILE_NAME_BYTES = 255  # limit of most file systems


class Location(Protocol):
    """A place that holds the files of one model."""

    @property
    def home(self) -> str | Path:
        """Folder or address where the tokenizer is searched."""

    def first(self, names: Sequence[str]) -> Path | None:
        """Return the first of these files that exists, downloaded if necessary."""

    def fetch(self, name: str) -> Path:
        """Return the path of a file that should exist."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine."""

    path: Path

    @property
    def home(self) -> Path:
        """The folder itself."""
        return self.path

    def first(self, names: Sequence[str]) -> Path | None:
        """Return the first of these files that exists."""
        return next((self.path / name for name in names if (self.path / name).is_file()), None)

    def fetch(self, name: str) -> Path:
        """Return the path of a file; the file may be missing."""
        return self.path / name


@dataclass(frozen=True)
class HubRepository:
    """A repository on the Hugging Face hub, or a folder inside one."""

    repo: str
    subfolder: str | None = None
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None

    @property
    def home(self) -> str:
        """The address, in the form that `zoo.resolve` reads."""
        return str(zoo.HubAddress(self.repo, self.subfolder, self.revision))

    def first(self, names: Sequence[str]) -> Path | None:
        """Download the first of these files that the repository has.

        Raises:
            DownloadError: if the hub cannot be reached.
        """
        return hub.find_hub_file(self.repo, names, **self._address)  # type: ignore[arg-type]

    def fetch(self, name: str | Sequence[str]) -> Path:
        """Download a file, or the first of several that exists.

        Raises:
            DownloadError: if the repository has none of them, or the hub cannot be reached.
        """
        return hub.hub_file(self.repo, name, **self._address)  # type: ignore[arg-type]

    def at_commit_of(self, path: Path) -> HubRepository:
        """Pin the repository to the commit that `path` was downloaded from.

        The branch may move between two downloads; files of two commits must not be mixed.
        """
        depth = len(Path(self.subfolder).parts) if self.subfolder else 0
        return replace(self, revision=path.parents[depth].name)

    @property
    def _address(self) -> dict[str, object]:
        return {"subfolder": self.subfolder, "revision": self.revision, "cache_dir": self.cache_dir}


def clip_subfolder(location: Location) -> str | None:
    """Find the CLIP in a model that sentence-transformers wrote.

    Such a model has a `modules.json`, and each of its modules is a subfolder; a CLIP is stored as transformers does.

    Returns:
        The name of the subfolder; None if there is no `modules.json`.

    Raises:
        CheckpointError: if no module is a CLIP, or `modules.json` is damaged.
    """
    path = location.first([SENTENCE_TRANSFORMERS_MODULES])
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            modules = json.loads(file.read(MAX_MODULES_BYTES))
        types = {str(module["path"]): str(module["type"]) for module in modules}
    except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a valid modules.json of sentence-transformers: {error}"
        ) from error
    found = [name for name, kind in types.items() if kind.endswith(".CLIPModel")]
    if not found:
        names = ", ".join(kind.rpartition(".")[2] for kind in types.values())
        raise CheckpointError(
            f"{path} describes a model without a CLIPModel ({names}): it can only encode texts"
        )
    if not re.fullmatch(r"\w[\w.-]*", found[0]) or len(os.fsencode(found[0])) > MAX_FILE_NAME_BYTES:
        raise CheckpointError(
            f"{path} names the folder {found[0][:80]!r}; expected the name of a folder next to it"
        )
    return found[0]
