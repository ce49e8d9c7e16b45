"""Shorten captions for training, at random or by part of speech.

Training with few tokens per caption is cheaper and nearly as good (Li et al. 2023, CLIPA, section 3.2). Random numbers
come from the generators that published training programs seed, in the same order: `torch` for "random" and "shuffle",
Python's `random` for "simple".

Shapes: N captions, L length of a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.errors import ConfigError, MissingExtraError
from oneclip.text.batching.padding import as_text_list, pack_rows

if TYPE_CHECKING:
    from torch import LongTensor

Encode = Callable[[str], list[int]]
Reduction = Callable[[Iterable[str], int, int, int, Encode], "LongTensor"]

NLTK_DATA = {
    "punkt_tab": "tokenizers/punkt_tab",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
}
_FIRST_TAGS = ("NN", "JJ", "VB")  # prefixes of Penn Treebank tags: nouns, adjectives, verbs


def random_mask_tokenize(
    texts: str | Iterable[str],
    context_length: int,
    sot_token_id: int,
    eot_token_id: int,
    encode_fn: Encode,
    shuffle: bool = False,
) -> LongTensor:
    """Keep L - 2 random tokens of captions that have more, drawn with torch's generator.

    Args:
        texts: N captions.
        context_length: L.
        sot_token_id, eot_token_id: the ids around each caption.
        encode_fn: returns the ids of one caption.
        shuffle: keep the tokens in the order drawn instead of their own.

    Returns:
        (N, L) int64, padded with zeros.
    """
    import torch

    def keep(ids: list[int], room: int) -> list[int]:
        drawn = torch.randperm(len(ids))[:room]
        return [ids[i] for i in (drawn if shuffle else drawn.msort()).tolist()]

    return _shorten_and_pack(texts, context_length, sot_token_id, eot_token_id, encode_fn, keep)


def simple_mask_tokenize(
    texts: str | Iterable[str], context_length: int, sot_token_id: int, eot_token_id: int, encode_fn: Encode
) -> LongTensor:
    """Keep L - 2 consecutive tokens of captions that have more, from a random start (Python's `random`).

    Arguments and result as in `random_mask_tokenize`.
    """

    def keep(ids: list[int], room: int) -> list[int]:
        start = random.randint(0, len(ids) - room)
        return ids[start : start + room]

    return _shorten_and_pack(texts, context_length, sot_token_id, eot_token_id, encode_fn, keep)


def syntax_mask_tokenize(
    texts: str | Iterable[str], context_length: int, sot_token_id: int, eot_token_id: int, encode_fn: Encode
) -> LongTensor:
    """Keep L - 2 words of captions that have more: nouns first, then adjectives, verbs and others.

    A word can be several tokens, so the result is cut at L. Arguments and result as in `random_mask_tokenize`.

    Raises:
        MissingExtraError: if nltk, which finds parts of speech, is not installed.
        ConfigError: if the data of nltk is missing.
    """
    nltk = _import_nltk()
    shorter = []
    for text in as_text_list(texts):
        words = nltk.tokenize.word_tokenize(text)
        order = np.array([_tag_order(tag) for _, tag in nltk.pos_tag(words)], dtype=np.int64)
        # NumPy's default sort is not stable; the published results depend on its order of equal values
        kept = sorted(np.argsort(order)[: context_length - 2].tolist())
        shorter.append(" ".join(words[i] for i in kept).strip())
    return _shorten_and_pack(
        shorter, context_length, sot_token_id, eot_token_id, encode_fn, lambda ids, room: ids[:room]
    )


_REDUCTIONS: dict[str, Reduction] = {
    "simple": simple_mask_tokenize,
    "random": random_mask_tokenize,
    "shuffle": partial(random_mask_tokenize, shuffle=True),
    "syntax": syntax_mask_tokenize,
}


def get_reduction_mask_fn(type: str) -> Reduction:
    """Return the reduction with this name: "simple", "random", "shuffle" or "syntax".

    Raises:
        ConfigError: if the name is unknown.
    """
    if not isinstance(type, str) or type not in _REDUCTIONS:
        raise ConfigError(f"unknown reduction_mask {type!r}; available: {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS[type]


def _shorten_and_pack(
    texts: str | Iterable[str],
    length: int,
    sot: int,
    eot: int,
    encode: Encode,
    keep: Callable[[list[int], int], list[int]],
) -> LongTensor:
    import torch

    room = length - 2
    kept = [ids if len(ids) <= room else keep(ids, room) for ids in map(encode, as_text_list(texts))]
    counts = np.array([len(ids) for ids in kept], dtype=np.int64)
    flat = np.array([i for ids in kept for i in ids], dtype=np.int64)
    return torch.from_numpy(pack_rows(flat, counts, length, [sot], [eot], 0))  # type: ignore[return-value]


def _tag_order(tag: str) -> int:
    """Return the rank of a part of speech; lower ranks are kept first."""
    return next((rank for rank, prefix in enumerate(_FIRST_TAGS) if tag.startswith(prefix)), len(_FIRST_TAGS))


def _import_nltk() -> Any:
    try:
        nltk = import_module("nltk")  # it has no types
    except ImportError as error:
        raise MissingExtraError("Shortening captions by parts of speech", "syntax") from error
    for name, path in NLTK_DATA.items():
        try:
            nltk.data.find(path)
        except LookupError as error:
            raise ConfigError(
                f"nltk lacks its data {name!r} for parts of speech; run: python -m nltk.downloader {name}"
            ) from error
    return nltk
