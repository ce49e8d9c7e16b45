"""What programs read from the tokenizers of published CLIP packages, beside encoding and decoding."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise

from oneclip.errors import TextError
from oneclip.text.clip.bpe import byte_symbols
from oneclip.text.clip.tokenizer import CLIPTokenizer


def bytes_to_unicode() -> dict[int, str]:
    """A printable character for each of the 256 bytes; reversible."""
    return dict(byte_symbols())


def get_pairs(word: tuple[str, ...]) -> set[tuple[str, str]]:
    """The pairs of neighbouring symbols in a word."""
    return set(pairwise(word))


class SimpleTokenizer(CLIPTokenizer):
    """A tokenizer that shows its tables under their published names.

    Attributes:
        encoder: token to id.
        decoder: id to token.
        bpe_ranks: pair of symbols to its place in the merge table.
        byte_encoder: byte to symbol.
        byte_decoder: symbol to byte.
        cache: what `bpe` has made so far; special tokens stand for themselves.
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
        """The text of (L,) ids; see `CLIPTokenizer.decode`."""
        return super().decode(tokens)

    def bpe(self, token: str) -> str:
        """Merge one piece of a word.

        Args:
            token: its bytes as symbols (`byte_encoder`).

        Returns:
            The tokens it becomes, with a space between them.

        Raises:
            TextError: if a character is no byte's symbol.
        """
        if token not in self.cache:
            if foreign := set(token) - self.byte_decoder.keys():
                raise TextError(
                    f"{sorted(foreign)[0]!r} in {token!r} is not the symbol of a byte; map bytes by byte_encoder"
                )
            self.cache[token] = " ".join(self.vocabulary.merge(token))
        return self.cache[token]
