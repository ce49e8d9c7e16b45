"""Rows of an output: name, content hash and embedding of each item, and the settings they were computed with."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from oneclip.embed.items import Stamp
from oneclip.errors import DataError, OutputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oneclip.encoder import Encoder


@dataclass(frozen=True)
class Rows:
    """N items side by side.

    Attributes:
        names: of the items.
        digests: SHA-256 of their contents, in hexadecimal digits.
        vectors: (N, D) float32 or float16, unit length.
        stamps: size and time of the file that each was made of; None where that is not known.
    """

    names: list[str]
    digests: list[str]
    vectors: NDArray[Any]
    stamps: list[Stamp | None]

    def __len__(self) -> int:
        return len(self.names)

    def chosen(self, indices: Sequence[int]) -> Rows:
        """Some of them."""
        return Rows(
            [self.names[i] for i in indices],
            [self.digests[i] for i in indices],
            self.vectors[indices],
            [self.stamps[i] for i in indices],
        )


def stamp_columns(stamps: Sequence[Stamp | None]) -> dict[str, NDArray[np.int64]]:
    """Stamps as they are stored: (N,) `size` and `mtime_ns`, -1 where nothing is known."""
    import numpy as np

    pairs = np.array([stamp or (-1, -1) for stamp in stamps], np.int64).reshape(-1, 2)
    return {"size": pairs[:, 0], "mtime_ns": pairs[:, 1]}


def stamps_of(sizes: Iterable[int | None], times: Iterable[int | None]) -> list[Stamp | None]:
    """The opposite."""
    return [
        None if size is None or time is None or size < 0 else (int(size), int(time))
        for size, time in zip(sizes, times, strict=True)
    ]


@dataclass(frozen=True)
class Facts:
    """What made vectors. Those of which any of this differs cannot be compared, and are never mixed.

    Attributes:
        model: what it was called; only for people, two names may lead to the same weights.
        weights: SHA-256 over the tensors of the model, as it was loaded.
        settings: SHA-256 over its configuration and preprocessing.
        precision: what it computed with.
        decode: "exact" or "fast", see `oneclip.image.fast_preprocess`; of captions "text", or "cut" where long ones are.
        kind: "pictures" or "captions".
        stored: "fp32" or "fp16", what they are written in.
    """

    model: str
    weights: str
    settings: str
    precision: str
    decode: str
    kind: str
    stored: str = "fp32"

    @classmethod
    def of(
        cls, encoder: Encoder, decode: Literal["exact", "fast", "text", "cut"], stored: str = "fp32"
    ) -> Facts:
        """Those of an encoder; takes a moment, for the whole of the weights is hashed."""
        settings = {
            "model": encoder.cfg.to_dict(),
            "preprocess": encoder.preprocess_cfg.to_dict(),
        }
        return cls(
            model=encoder.name,
            weights=weights_digest(encoder),
            settings=hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
            precision=encoder.precision,
            decode=decode,
            kind="pictures" if decode in ("exact", "fast") else "captions",
            stored=stored,
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        """What vectors are written in."""
        import numpy as np

        return np.dtype(np.float16 if self.stored == "fp16" else np.float32)

    @property
    def identity(self) -> str:
        """Sixteen digits that are the same where vectors may be mixed, however they are stored."""
        values = [getattr(self, name) for name in _COMPARED if name != "stored"]
        return hashlib.sha256("\0".join(values).encode()).hexdigest()[:16]

    def check_same(self, others: Facts, place: object) -> None:
        """Refuse to go on with what another model made.

        Raises:
            OutputError: naming what differs.
        """
        different = [
            f"{name} {_short(getattr(others, name))}, not {_short(getattr(self, name))}"
            for name in _COMPARED
            if getattr(others, name) != getattr(self, name)
        ]
        if different:
            told = [f"model {others.model}, not {self.model}"] if others.model != self.model else []
            raise OutputError(
                f"{place} holds vectors of another making: {'; '.join(told + different)}. "
                "Nothing was changed; name another output, or --overwrite to replace it"
            )

    def to_dict(self) -> dict[str, str]:
        """Names and values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> Facts:
        """The opposite; a KeyError if one is missing that was always written."""
        return cls(**{name: str(values[name]) for name in FACTS if name != "stored" or name in values})


_DIGEST = re.compile(r"[0-9a-f]{64}")
FACTS = tuple(field.name for field in fields(Facts))
_COMPARED = FACTS[1:]


def weights_digest(encoder: Encoder) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors of a model, in the order of their names."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy())  # the bytes, whatever they mean
    return digest.hexdigest()


def check_names(names: list[str], digests: list[str], place: object) -> None:
    """Raise DataError unless what was read are names and SHA-256 digests, as many of the one as of the other."""
    fit = len(names) == len(digests) and all(isinstance(name, str) for name in names)
    if not fit or not all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests):
        raise DataError(
            f"{place} is damaged: its {len(names)} names and {len(digests)} digests are not what was written"
        )


def check_rows(rows: Rows, place: object) -> None:
    """Raise DataError unless what was read are rows: `check_names`, and vectors (N, D) of floats for them."""
    check_names(rows.names, rows.digests, place)
    if rows.vectors.ndim != 2 or rows.vectors.dtype.kind != "f" or len(rows.vectors) != len(rows):
        raise DataError(
            f"{place} is damaged: it has {len(rows)} names, and vectors {rows.vectors.shape} of {rows.vectors.dtype}"
        )


def _short(value: str) -> str:
    return f"{value[:12]}…" if len(value) == 64 else value
