"""Interface of all tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import LongTensor


class Tokenizer(Protocol):
    """Converter of texts to rows of token ids for a text tower.

    Attributes:
        context_length: L, the length of a row; None if each call must pass it.
        vocab_size: number of ids.
        pad_token_id: id that fills the rest of a row.
    """

    context_length: int | None
    vocab_size: int
    pad_token_id: int

    def __call__(
        self,
        texts: str | Iterable[str],
        context_length: int | None = None,
        *,
        overflow: Literal["truncate", "error"] = "truncate",
    ) -> LongTensor:
        """Tokenize one text, or N.

        Returns:
            (N, L) int64 on the CPU; rows are always padded to L.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or too small, or `overflow` has another value.
        """

    def encode(self, text: str) -> list[int]:
        """Return all ids of one text, without special tokens around it."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of (L,) ids, including special tokens."""
