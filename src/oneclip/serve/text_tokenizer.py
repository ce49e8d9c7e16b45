"""Tokenize the texts of a request, count their tokens, and find the one that cannot be used.

Shapes: N texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from oneclip.errors import ConfigError, TextError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from oneclip.encoding import BaseEncoder

MAX_SPECIAL_TOKENS = 8  # around a text; published tokenizers have at most 3


class TextTokenizer:
    """Tokenizer of an encoder, whose files are read at the first text.

    Args:
        encoder: the model.
    """

    def __init__(self, encoder: BaseEncoder) -> None:
        self._encoder = encoder

    @property
    def pad_id(self) -> int:
        """Id of the padding."""
        return self._encoder.tokenizer.pad_token_id

    def rows(self, texts: Sequence[str], truncate: bool) -> NDArray[np.int64]:
        """Return the ids (N, L) of texts, with padding.

        Raises:
            TextError: for a text that cannot be used, such as one that is too long.
        """
        return self._encoder.token_ids(texts, "truncate" if truncate else "error")

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text that the model reads, with start and end, without padding."""
        most = self._encoder.context_length
        return [min(len(ids) + self._special_tokens, most) for ids in self._encode(texts)]

    def first_bad(self, texts: Sequence[str], error: BaseException) -> int:
        """Return the index of the text that an error of `rows` is about; 0 if it is about none."""
        for index, text in enumerate(texts) if isinstance(error, TextError) else ():
            try:
                self.rows([text], truncate=False)
            except TextError:
                return index
        return 0

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""
        tokenizer: Any = self._encoder.tokenizer
        several: Callable[[Sequence[str]], list[list[int]]] | None = getattr(tokenizer, "encode_batch", None)
        return several(texts) if several else [tokenizer.encode(text) for text in texts]

    @cached_property
    def _special_tokens(self) -> int:
        """Number of special tokens around a text: the shortest row that takes an empty text has no others."""
        for length in range(1, MAX_SPECIAL_TOKENS + 1):
            try:
                self._encoder.token_ids([""], context_length=length)
            except (ConfigError, TextError):
                continue
            return length - len(self._encode([""])[0])
        return 0
