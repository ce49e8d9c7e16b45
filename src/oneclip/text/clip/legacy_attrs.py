"""Attributes and functions of the tokenizers in published CLIP packages."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

from oneclip.errors import TextError
from oneclip.text.clip.bpe import byte_symbols
from oneclip.text.clip.tokenizer import CLIPTokenizer


def bytes_to_unicode() -> dict[int, str]:
    """Return a reversible map of the 256 bytes to printable characters."""
    return dict(byte_symbols())


def get_pairs(word: tuple[str, ...]) -> set[tuple[str, str]]:
    """Return the pairs of neighbouring symbols in a word."""
    return set(pairwise(word))


class SimpleTokenizer(CLIPTokenizer):
    """CLIP tokenizer whose tables have their published names.

    Attributes:
        encoder: token to id.
        decoder: id to token.
        bpe_ranks: pair of symbols to its position in the merge table.
        byte_encoder: byte to symbol.
        byte_decoder: symbol to byte.
        cache: results of `bpe`; special tokens map to themselves.
    """

    @property
    def encoder(self) -> dict[str, int]:
        return self.vocabulary.encoder

    @property
    def decoder(self) -> dict[int, str]:
        return self.vocabulary.decoder

    @property
    def bpe_ranks(self) -> dict[tuple[str, str], int]:
        return self.vocabulary.ranks

    @cached_property
    def byte_encoder(self) -> dict[int, str]:
        return bytes_to_unicode()

    @cached_property
    def byte_decoder(self) -> dict[str, int]:
        return {symbol: byte for byte, symbol in self.byte_encoder.items()}

    @cached_property
    def cache(self) -> dict[str, str]:
        return {token: token for token in self.vocabulary.special_tokens}

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of (L,) ids; see `CLIPTokenizer.decode`."""
        return super().decode(tokens)

    def bpe(self, token: str) -> str:
        """Merge one piece of a word.

        Args:
            token: its bytes as symbols (`byte_encoder`).

        Returns:
            The tokens, separated by spaces.

        Raises:
            TextError: if a character is not the symbol of a byte.
        """
        if token not in self.cache:
            if foreign := set(token) - self.byte_decoder.keys():
                raise TextError(
                    f"{sorted(foreign)[0]!r} in {token!r} is not the symbol of a byte; map bytes with byte_encoder"
                )
            self.cache[token] = " ".join(self.vocabulary.merge(token))
        return self.cache[token]
