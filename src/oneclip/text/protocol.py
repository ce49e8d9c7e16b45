"""What every tokenizer can do, whatever it was made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import LongTensor


class Tokenizer(Protocol):
    """Captions to rows of token ids of one length, as a text tower takes them.

    Attributes:
        context_length: L, the length of a row; None where it is told at each call.
        vocab_size: how many ids there are.
        pad_token_id: what fills a row beside its caption.
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
        """One caption, or N, to (N, L) int64 on the CPU: always L long, however short the captions are.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or too small, or `overflow` is neither of the two.
        """

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without what is put around it, however long."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of (L,) ids, special tokens included."""
