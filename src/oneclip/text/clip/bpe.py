"""Byte-level byte-pair encoding of words (Sennrich et al. 2016; Radford et al. 2019).

A piece of a word is a sequence of UTF-8 bytes, each written as one printable symbol; the last symbol is marked with
`</w>`. Neighbours are merged in the order of the merge table until no merge is left. The ids are, in order: the 256
symbols, the marked symbols, the merges, the special tokens.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tokenizers.models import BPE

from oneclip.errors import ConfigError
from oneclip.text.clip.bpe_batch import MAX_CACHED_LENGTH, WordCache
from oneclip.text.clip.pretokenize import make_pretokenizer

END_OF_WORD = "</w>"
MERGE_COUNT = 48_894  # merges in a vocabulary of 49,408; longer tables are cut
MAX_CACHED_PIECES = 32_768  # about 6 MB


def default_bpe() -> str:
    """Return the path of CLIP's merge table: gzipped text, one header line, then one merge per line."""
    return str(Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz"))


@lru_cache(maxsize=1)
def byte_symbols() -> dict[int, str]:
    """Map each byte to a printable character, in the order of the ids; visible Latin-1 characters map to themselves."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(visible))
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


class ByteMerges:
    """Merge table, and the model that applies it. Use `byte_merges()`, which shares one instance.

    Args:
        path: a gzipped table; None for CLIP's own.

    Attributes:
        pairs: the merges in order.
        ids: token to id.

    Raises:
        ConfigError: if the file is not a merge table.
    """

    def __init__(self, path: str | None) -> None:
        self.pairs = _read_pairs(path or default_bpe())
        symbols = list(byte_symbols().values())
        tokens = symbols + [symbol + END_OF_WORD for symbol in symbols]
        tokens += [first + second for first, second in self.pairs]
        self.ids = {token: i for i, token in enumerate(tokens)}
        try:
            self._model = BPE(
                vocab=self.ids, merges=self.pairs, end_of_word_suffix=END_OF_WORD, cache_capacity=0
            )
        except Exception as error:  # tokenizers raises plain Exception
            raise ConfigError(
                f"the merges in {path} use symbols that no earlier merge makes: {error}"
            ) from error
        self._encode_cached = lru_cache(maxsize=MAX_CACHED_PIECES)(self._encode)

    def merge(self, symbols: str) -> list[str]:
        """Merge the byte symbols of one piece as far as the table goes."""
        return [token.value for token in self._model.tokenize(symbols)]

    def encode(self, piece: str) -> tuple[int, ...]:
        """Return the ids of one piece."""
        return self._encode_cached(piece) if len(piece) <= MAX_CACHED_LENGTH else self._encode(piece)

    def _encode(self, piece: str) -> tuple[int, ...]:
        symbols = piece.encode("utf-8").decode("latin-1").translate(byte_symbols())
        return tuple(token.id for token in self._model.tokenize(symbols))


@lru_cache(maxsize=4)
def byte_merges(path: str | None) -> ByteMerges:
    """Read the merges of a file, once per process."""
    return ByteMerges(path)


class Vocabulary:
    """Tokens of a tokenizer, and encoding of texts. Use `vocabulary()`, which shares one instance.

    Args:
        path: a merge table; None for CLIP's own.
        special_tokens: start of text, end of text, and others; their ids follow those of the merges.

    Raises:
        ConfigError: if a special token is empty, contains whitespace, or is a token already.
    """

    def __init__(self, path: str | None, special_tokens: tuple[str, ...]) -> None:
        self.path, self.special_tokens = path, special_tokens
        self._merges = byte_merges(path)
        self.encoder = dict(self._merges.ids)
        for token in special_tokens:
            if not isinstance(token, str) or token.split() != [token]:
                raise ConfigError(f"a special token must be one word without whitespace, not {token!r}")
            if token in self.encoder:
                raise ConfigError(f"the special token {token!r} is in the vocabulary already; choose another")
            self.encoder[token] = len(self.encoder)
        self.special_ids = {token: self.encoder[token] for token in special_tokens}
        self._split = make_pretokenizer(special_tokens)
        self.encode_texts = WordCache(self.encode)

    def __len__(self) -> int:
        return len(self.encoder)

    def __reduce__(self) -> tuple[Any, ...]:
        return vocabulary, (self.path, self.special_tokens)  # another process shares its own instance

    @cached_property
    def decoder(self) -> dict[int, str]:
        """Id to token."""
        return {i: token for token, i in self.encoder.items()}

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        """Pair of symbols to its position in the merge table."""
        return {pair: rank for rank, pair in enumerate(self._merges.pairs)}

    def merge(self, symbols: str) -> list[str]:
        """Merge the byte symbols of one piece as far as the table goes."""
        return self._merges.merge(symbols)

    def encode(self, word: str) -> list[int]:
        """Return the ids of a cleaned word without whitespace."""
        ids: list[int] = []
        for piece in self._split(word):
            special = self.special_ids.get(piece)
            ids += self._merges.encode(piece) if special is None else (special,)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of valid ids. Invalid UTF-8 becomes U+FFFD."""
        special = {i: token.encode() for token, i in self.special_ids.items()}
        byte = {symbol: byte for byte, symbol in byte_symbols().items()}
        parts = (special[i] if i in special else bytes([byte[s] for s in self.decoder[i]]) for i in ids)
        return b"".join(parts).decode("utf-8", errors="replace").replace(END_OF_WORD, " ")


@lru_cache(maxsize=16)
def vocabulary(path: str | None, special_tokens: tuple[str, ...]) -> Vocabulary:
    """Make the vocabulary of a merge table and special tokens, once per process."""
    return Vocabulary(path, special_tokens)


def _read_pairs(path: str) -> list[tuple[str, str]]:
    try:
        with gzip.open(path, mode="rt", encoding="utf-8", newline="\n") as file:
            lines = file.read().split("\n")[1 : MERGE_COUNT + 1]
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ConfigError(
            f"{path} is not a merge table (gzipped text with two symbols per line): {error}"
        ) from error
    pairs = []
    for number, line in enumerate(lines, start=2):
        symbols = line.split()
        if len(symbols) == 2:
            pairs.append((symbols[0], symbols[1]))
        elif symbols:
            raise ConfigError(f"line {number} of {path} is not a merge of two symbols: {line!r}")
    return pairs
