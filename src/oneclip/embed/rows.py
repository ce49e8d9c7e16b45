"""Rows of an output: name, content hash and embedding of each item, and the settings they were computed with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from oneclip.embed.items import FileStamp
from oneclip.errors import DataError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oneclip.encoding import BaseEncoder

Decode = Literal["exact", "fast", "text", "truncate"]
"""Decode mode: of images "exact" or "fast", of texts "text" or "truncate"."""


@dataclass(frozen=True)
class EmbeddingRows:
    """N rows of an output.

    Attributes:
        names: of the items.
        digests: SHA-256 of their contents in hexadecimal digits.
        vectors: (N, D) float32 or float16 embeddings of unit length.
        stamps: size and modification time of the file of each item; None if unknown.
    """

    names: list[str]
    digests: list[str]
    vectors: NDArray[Any]
    stamps: list[FileStamp | None]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, indices: Sequence[int]) -> EmbeddingRows:
        """Return the rows with these indices."""
        return EmbeddingRows(
            [self.names[i] for i in indices],
            [self.digests[i] for i in indices],
            self.vectors[indices],
            [self.stamps[i] for i in indices],
        )


def stamp_columns(stamps: Sequence[FileStamp | None]) -> dict[str, NDArray[np.int64]]:
    """Convert stamps to stored columns: (N,) `size` and `mtime_ns`, -1 if unknown."""
    import numpy as np

    pairs = np.array([stamp or (-1, -1) for stamp in stamps], np.int64).reshape(-1, 2)
    return {"size": pairs[:, 0], "mtime_ns": pairs[:, 1]}


def stamps_from_columns(sizes: Iterable[int | None], times: Iterable[int | None]) -> list[FileStamp | None]:
    """Convert stored columns to stamps."""
    return [
        None if size is None or time is None or size < 0 else (int(size), int(time))
        for size, time in zip(sizes, times, strict=True)
    ]


@dataclass(frozen=True)
class EmbeddingMetadata:
    """Settings that produced embeddings. Embeddings with different settings are not comparable and never mixed.

    Attributes:
        model: name of the model, for people; two names may mean the same weights.
        weights: SHA-256 of the tensors of the loaded model.
        settings: SHA-256 of its configuration and preprocessing.
        precision: of the computation.
        decode: of images "exact" or "fast", see `oneclip.image.fast_preprocess`; of texts "text", or "truncate" if long
            ones are cut.
        kind: "images" or "texts".
        stored: "fp32" or "fp16", the type of the stored embeddings.
    """

    model: str
    weights: str
    settings: str
    precision: str
    decode: str
    kind: str
    stored: str = "fp32"

    @classmethod
    def for_encoder(
        cls, encoder: BaseEncoder, decode: Decode, stored: str = "fp32", weights: str | None = None
    ) -> EmbeddingMetadata:
        """Return the metadata of an encoder. Hashes all weights, which takes a moment, unless the digest is given."""
        settings = {
            "model": encoder.cfg.to_dict(),
            "preprocess": encoder.preprocess_cfg.to_dict(),
        }
        return cls(
            model=encoder.name,
            weights=weights or encoder.weights_digest(),
            settings=hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
            precision=encoder.precision,
            decode=decode,
            kind="images" if decode in ("exact", "fast") else "texts",
            stored=stored,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the stored embeddings."""
        import numpy as np

        return np.dtype(np.float16 if self.stored == "fp16" else np.float32)

    @property
    def identity(self) -> str:
        """Hash of 16 digits that is equal for comparable embeddings, however they are stored."""
        values = [getattr(self, name) for name in _COMPARED_FIELDS if name != "stored"]
        return hashlib.sha256("\0".join(values).encode()).hexdigest()[:16]

    def differences(self, others: EmbeddingMetadata) -> list[str]:
        """Return in which settings existing embeddings differ from these, in words; empty if they can be mixed."""
        different = [
            f"{name} {_short(getattr(others, name))}, not {_short(getattr(self, name))}"
            for name in _COMPARED_FIELDS
            if getattr(others, name) != getattr(self, name)
            and (name != "decode" or others.kind == self.kind)  # it follows from the kind
        ]
        if different and others.model != self.model:
            different.insert(0, f"model {others.model}, not {self.model}")
        return different

    def require_same(self, others: EmbeddingMetadata, location: object) -> None:
        """Check that existing embeddings were made with the same settings.

        Raises:
            OutputError: naming the differences.
        """
        different = self.differences(others)
        if different:
            raise OutputError(
                f"{location} contains embeddings made with other settings: {'; '.join(different)}. "
                "Nothing was changed; choose another output, or use --overwrite to replace it"
            )

    def to_dict(self) -> dict[str, str]:
        """Convert to a dict of strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> EmbeddingMetadata:
        """Convert from a dict. Raises KeyError if a required field is missing."""
        return cls(
            **{name: str(values[name]) for name in METADATA_FIELDS if name != "stored" or name in values}
        )


_DIGEST = re.compile(r"[0-9a-f]{64}")
METADATA_FIELDS = tuple(field.name for field in fields(EmbeddingMetadata))
_COMPARED_FIELDS = METADATA_FIELDS[1:]


def check_names(names: list[str], digests: list[str], location: object) -> None:
    """Raise DataError unless `names` are strings and `digests` SHA-256 digests, in equal number."""
    fit = len(names) == len(digests) and all(isinstance(name, str) for name in names)
    if not fit or not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests):
        raise DataError(
            f"{location} is damaged: its {len(names)} names and {len(digests)} digests are not valid"
        )


def check_rows(rows: EmbeddingRows, location: object) -> None:
    """Raise DataError unless the rows are valid: see `check_names`, and vectors (N, D) of floats."""
    check_names(rows.names, rows.digests, location)
    if rows.vectors.ndim != 2 or rows.vectors.dtype.kind != "f" or len(rows.vectors) != len(rows):
        raise DataError(
            f"{location} is damaged: it has {len(rows)} names, but vectors {rows.vectors.shape} of {rows.vectors.dtype}"
        )


def _short(value: str) -> str:
    return f"{value[:12]}…" if len(value) == 64 else value
