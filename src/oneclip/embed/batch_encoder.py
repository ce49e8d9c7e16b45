"""Decode items and encode batches of them; shared by the local run and the workers of a cluster.

`item_decoder` turns the bytes of an item into model input, in threads; `BatchEncoder` turns a batch of inputs into
embeddings.
"""

from __future__ import annotations

import io
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from oneclip.embed.prefetch import DecodedItem
from oneclip.embed.rows import Decode
from oneclip.errors import CheckpointError, ConfigError, TextError
from oneclip.image import check_header, open_image

if TYPE_CHECKING:
    from PIL import Image

    from oneclip.encoding import BaseEncoder, Features

FinishBatch: TypeAlias = "Callable[[], tuple[dict[str, Features | str], set[str]]]"
RECENT_CACHE_BYTES = 64 << 20  # of recent embeddings, so that repeated content is encoded once
TEXT_BATCH = 2048  # texts that are sorted by length before they become batches


@dataclass(frozen=True)
class ItemDecoder:
    """Functions that turn the bytes of an item into model input: a tensor (3, H, W), or a text.

    Attributes:
        decode: turns the bytes of one item into model input.
        check_header: raises for an image file, given by path, whose header shows that it cannot be decoded; None for
            texts.
    """

    decode: Callable[[io.BytesIO], Any]
    check_header: Callable[[str], None] | None = None


def item_decoder(
    encoder: BaseEncoder, decode: Decode, open_file: Callable[..., Image.Image] | None = None
) -> ItemDecoder:
    """Return the decoder of an encoder's items.

    Args:
        encoder: the model.
        decode: as in `embed`.
        open_file: opens an image, called with the arguments of `open_image`, which is the default.

    Raises:
        ConfigError: for an unknown decode mode.
    """
    if decode in ("text", "truncate"):
        return ItemDecoder(_decode_text)
    if decode not in ("exact", "fast"):
        raise ConfigError(
            f"decode is {decode!r}; expected 'exact' or 'fast' for images, 'text' or 'truncate' for texts"
        )
    preprocess = encoder.pipeline(decode).preprocess
    min_size, limit, truncated = getattr(preprocess, "min_size", None), encoder.max_pixels, encoder.truncated
    return ItemDecoder(
        lambda content: preprocess(
            (open_file or open_image)(content, max_pixels=limit, min_size=min_size, truncated=truncated)
        ),
        partial(check_header, max_pixels=limit),
    )


class BatchEncoder:
    """Encode batches; if an item makes a batch fail, encode its items one by one.

    Args:
        encoder: the model.
        decode: as in `embed`.

    Attributes:
        is_image: whether it encodes images rather than texts.
        depth: how many batches may be started before the first is finished; more than 0 keeps a GPU busy.
    """

    def __init__(self, encoder: BaseEncoder, decode: Decode) -> None:
        self._encoder = encoder
        self.is_image = decode in ("exact", "fast")
        self._pipeline = encoder.pipeline("fast" if decode == "fast" else "exact")
        self.depth = self._pipeline.depth if self.is_image else 0
        self._recent: OrderedDict[str, Features] = OrderedDict()
        self._remembered = max(1, RECENT_CACHE_BYTES // (4 * encoder.embed_dim))
        self._overflow: Literal["error", "truncate"] = "truncate" if decode == "truncate" else "error"

    def encode(self, values: Sequence[Any]) -> list[Features | str]:
        """Encode values; an item that cannot be encoded gives the reason instead of an embedding (D,) of unit length.

        Raises:
            MemoryError: if a single item does not fit into memory.
        """
        return self.begin(values)()

    def begin(self, values: Sequence[Any]) -> Callable[[], list[Features | str]]:
        """Start encoding and return a function that returns the result of `encode`."""
        try:
            started = self._begin(values) if values else list
        except (CheckpointError, TextError):
            return lambda: [self._encode_one(value) for value in values]

        def finish() -> list[Features | str]:
            try:
                with _as_memory_error():
                    return list(started())
            except CheckpointError:
                return [self._encode_one(value) for value in values]

        return finish

    def begin_entries(self, entries: Sequence[DecodedItem]) -> FinishBatch:
        """Start encoding decoded items, each distinct content once.

        Returns:
            A function that returns, by digest, the embedding (D,) or the reason for a failure, and the digests that
            were computed now.
        """
        found: dict[str, Features | str] = {
            e.digest: self._recent[e.digest] for e in entries if e.digest in self._recent
        }
        new = list({e.digest: e for e in entries if e.digest not in found}.values())
        started = self.begin([e.value for e in new])

        def finish() -> tuple[dict[str, Features | str], set[str]]:
            made = dict(zip((e.digest for e in new), started(), strict=True))
            self._recent.update((digest, v) for digest, v in made.items() if not isinstance(v, str))
            while len(self._recent) > self._remembered:
                self._recent.popitem(last=False)
            return found | made, set(made)

        return finish

    def batch_length(self, batch_size: int) -> int:
        """Return the number of items in a batch: texts are sorted by length, so their batches are larger."""
        return batch_size if self.is_image else max(batch_size, TEXT_BATCH)

    def _encode_one(self, value: Any) -> Features | str:
        try:
            (vector,) = self._begin([value])()
        except (CheckpointError, TextError) as error:
            return str(error)
        return vector

    def _begin(self, values: Sequence[Any]) -> Callable[[], Iterable[Features]]:
        with _as_memory_error():
            if self.is_image:
                return self._pipeline.start_images(values)
            features = self._encoder.encode_texts(list(values), overflow=self._overflow)
            return lambda: features


@contextmanager
def _as_memory_error() -> Iterator[None]:
    """Turn the out-of-memory errors of PyTorch, raised after halving a batch down to one item, into MemoryError."""
    try:
        yield
    except RuntimeError as error:  # PyTorch raises several types
        if sys.modules.get("torch") is None:
            raise
        from oneclip.engine import is_out_of_memory

        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise


def _decode_text(content: io.BytesIO) -> str:
    try:
        text = content.getvalue().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise TextError(f"not text in UTF-8: {error}") from error
    if not text:
        raise TextError("an empty text")
    return text
