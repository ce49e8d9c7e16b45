"""Model of an evaluation: its two names, and its encoder, which is loaded when something must be encoded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from oneclip import zoo
from oneclip._version import __version__
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import UnknownModelError

if TYPE_CHECKING:
    from oneclip.encoder import Encoder


class EvaluatedModel:
    """Model of an evaluation. The encoder is loaded at first use, so a finished evaluation loads none.

    Args:
        model: an encoder, or a name for `load`.
        load: loads the encoder of a name; by default `oneclip.load`.
        loading: how `load` loads it, such as the precision; compared with that of earlier results.

    Attributes:
        name: for people.
        architecture, pretrained: the two parts of the name as CLIP_benchmark writes them; `pretrained` is "" for
            weights without a tag.
        identity: differs between different weights, as far as can be known without loading them.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        load: Callable[[str], Encoder] | None = None,
        loading: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.loading = dict(loading)
        self._encoder: Encoder | None = None
        if isinstance(model, (str, os.PathLike)):
            self.name = os.fspath(model)
            self._load = partial(load or _load, self.name)
            source = zoo.resolve(model)
        else:
            self.name, self._encoder = model.name, model
            try:
                source = zoo.resolve(model.name)
            except (UnknownModelError, ValueError):  # a name that its owner chose
                self.architecture, self.pretrained = model.name, ""
                return
        self.architecture, self.pretrained = _names(source)
        self._source = source

    @cached_property
    def identity(self) -> str:
        """See the class."""
        if self._encoder is not None:
            return self.metadata.weights
        source = self._source
        if source.kind == "pocket":
            return f"pocket of {__version__}"
        if source.path is None:
            return str(source.pretrained or (source.repo, source.subfolder, source.revision))
        return f"{source.architecture} {file_stamp(source.path)}"

    @property
    def encoder(self) -> Encoder:
        """The encoder; loaded at first use."""
        if self._encoder is None:
            self._encoder = self._load()
        return self._encoder

    @cached_property
    def metadata(self) -> EmbeddingMetadata:
        """What makes image embeddings."""
        return EmbeddingMetadata.for_encoder(self.encoder, "exact")

    @cached_property
    def text_metadata(self) -> EmbeddingMetadata:
        """What makes text embeddings, of which long ones are cut."""
        return replace(self.metadata, decode="truncate", kind="texts")

    def describe(self) -> dict[str, Any]:
        """Return what made the embeddings, as JSON values."""
        encoder = self.encoder
        return {
            "oneclip": __version__,
            "weights": self.metadata.weights,
            "settings": self.metadata.settings,
            "precision": encoder.precision,
            "device": str(encoder.device),
            "image_size": list(encoder.image_size),
            "preprocess": encoder.preprocess_cfg.to_dict(),
        }


def file_stamp(*paths: str | os.PathLike[str]) -> str:
    """Return a digest of the names, sizes and modification times of files, and of all files of folders."""
    digest = hashlib.sha256()
    for path in dict.fromkeys(paths):
        folders = sorted(os.walk(path)) if os.path.isdir(path) else [(str(path), [], [""])]
        for folder, _, names in folders:
            for name in sorted(names):
                file = os.path.join(folder, name) if name else folder
                with suppress(OSError):  # a broken link; it is reported when it is read
                    status = os.stat(file)
                    digest.update(
                        f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="replace")
                    )
    return digest.hexdigest()


def _load(name: str) -> Encoder:
    from oneclip.load_model import load

    return cast("Encoder", load(name))  # an exported model has what an evaluation asks for


def _names(source: zoo.ModelSource) -> tuple[str, str]:
    """Split the name of a model into architecture and weights, as `--model` and `--pretrained` of CLIP_benchmark."""
    if source.kind == "pretrained" and source.pretrained is not None:
        return source.pretrained.architecture, source.pretrained.tag
    if source.kind == "architecture-file":
        return source.architecture or "", str(source.path)
    return source.name, ""
