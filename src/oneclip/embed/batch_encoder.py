"""Items that were read to vectors: what is done between a disk and a store, here or in a worker elsewhere.

`preparation` turns the bytes of an item into what the model takes, in threads, and `Model` turns a batch of those into
vectors. Both hold nothing of the rest.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from oneclip.embed.prefetch import Ready
from oneclip.encoder.pipeline import Feed
from oneclip.engine import is_out_of_memory
from oneclip.errors import CheckpointError, ConfigError, TextError
from oneclip.image import check_header, open_image

if TYPE_CHECKING:
    from oneclip.encoder import Encoder, Features

Finish: TypeAlias = "Callable[[], tuple[dict[str, Features | str], set[str]]]"
Decode = Literal["exact", "fast", "text", "cut"]
RECENT_BYTES = 64 << 20  # of vectors whose content may come again: what is equal is computed once
CAPTIONS_AT_ONCE = 2048  # to be sorted by length before they become batches


@dataclass(frozen=True)
class Preparation:
    """What turns the bytes of an item into what the model takes: a tensor (3, H, W), or a caption.

    Attributes:
        decode: the bytes of one item to that.
        look: refuses a file, by its path, of which the first bytes show that it cannot be decoded; None for captions.
    """

    decode: Callable[[io.BytesIO], Any]
    look: Callable[[str], None] | None = None


def preparation(encoder: Encoder, decode: Decode) -> Preparation:
    """How the items of an encoder are prepared."""
    if decode in ("text", "cut"):
        return Preparation(_caption)
    if decode not in ("exact", "fast"):
        raise ConfigError(f"decode is {decode!r} and must be 'exact' or 'fast', of captions 'text' or 'cut'")
    preprocess = Feed(encoder, decode).preprocess
    least, limit, truncated = getattr(preprocess, "least", None), encoder.max_pixels, encoder.truncated
    return Preparation(
        lambda content: preprocess(open_image(content, max_pixels=limit, least=least, truncated=truncated)),
        partial(check_header, max_pixels=limit),
    )


class Model:
    """A batch of prepared items to vectors, one by one where the batch has something that spoils it.

    Args:
        encoder: the model.
        decode: as of `embed`.

    Attributes:
        sees: whether it takes pictures; else captions.
        ahead: how many batches may be begun before one is asked for, since a GPU computes meanwhile.
    """

    def __init__(self, encoder: Encoder, decode: Decode) -> None:
        self._encoder = encoder
        self.sees = decode in ("exact", "fast")
        self._feed = Feed(encoder, decode if self.sees else "exact")
        self.ahead = self._feed.ahead if self.sees else 0
        self._recent: OrderedDict[str, Features] = OrderedDict()
        self._remembered = max(1, RECENT_BYTES // (4 * encoder.embed_dim))
        self._overflow: Literal["error", "truncate"] = "truncate" if decode == "cut" else "error"

    def encode(self, values: Sequence[Any]) -> list[Features | str]:
        """Vectors (D,) of unit length; for what has none, the reason.

        Raises:
            MemoryError: if the memory is too small for a single one.
        """
        return self.begin(values)()

    def begin(self, values: Sequence[Any]) -> Callable[[], list[Features | str]]:
        """`encode`, to be asked for later."""
        try:
            begun = self._begin(values) if values else list
        except (CheckpointError, TextError):
            return lambda: [self._alone(value) for value in values]

        def finish() -> list[Features | str]:
            try:
                with _memory_by_name():
                    return list(begun())
            except CheckpointError:
                return [self._alone(value) for value in values]

        return finish

    def begin_entries(self, entries: Sequence[Ready]) -> Finish:
        """Begin to make the vectors of what was read, of equal contents one.

        Returns:
            What gives, of each digest, the vector (D,), or the reason why there is none; and the digests that were
            computed now.
        """
        found: dict[str, Features | str] = {
            e.digest: self._recent[e.digest] for e in entries if e.digest in self._recent
        }
        new = list({e.digest: e for e in entries if e.digest not in found}.values())
        begun = self.begin([e.value for e in new])

        def finish() -> tuple[dict[str, Features | str], set[str]]:
            made = dict(zip((e.digest for e in new), begun(), strict=True))
            self._recent.update((digest, v) for digest, v in made.items() if not isinstance(v, str))
            while len(self._recent) > self._remembered:
                self._recent.popitem(last=False)
            return found | made, set(made)

        return finish

    def batch(self, batch_size: int) -> int:
        """How many items make a batch, where so many pictures do."""
        return batch_size if self.sees else max(batch_size, CAPTIONS_AT_ONCE)

    def _alone(self, value: Any) -> Features | str:
        try:
            (vector,) = self._begin([value])()
        except (CheckpointError, TextError) as error:
            return str(error)
        return vector

    def _begin(self, values: Sequence[Any]) -> Callable[[], Iterable[Features]]:
        with _memory_by_name():
            if self.sees:
                return self._feed.pictures(values)
            features = self._encoder.encode_texts(list(values), overflow=self._overflow)
            return lambda: features


@contextmanager
def _memory_by_name() -> Iterator[None]:
    """What says that memory is lacking, after the batch was halved down to one, as a MemoryError."""
    try:
        yield
    except RuntimeError as error:  # PyTorch has several names for it
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise


def _caption(content: io.BytesIO) -> str:
    try:
        text = content.getvalue().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise TextError(f"no text in UTF-8: {error}") from error
    if not text:
        raise TextError("an empty caption")
    return text
