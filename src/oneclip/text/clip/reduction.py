"""Captions that are too long to rows of the tokens that stay, chosen at random or by their part of speech.

Training on few tokens a caption is cheaper, and hardly worse (Li et al. 2023, CLIPA, section 3.2). Random choices come
from the generators that published training programs seed, and take as many numbers from them: `torch` for "random"
and "shuffle", Python's `random` for "simple".

Shapes: N captions, L the length of a row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.errors import ConfigError, MissingExtraError
from oneclip.text.batching.padding import as_list, pack

if TYPE_CHECKING:
    from torch import LongTensor

Encode = Callable[[str], list[int]]
Reduction = Callable[[Iterable[str], int, int, int, Encode], "LongTensor"]

NLTK_DATA = {
    "punkt_tab": "tokenizers/punkt_tab",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
}
_FIRST_TAGS = ("NN", "JJ", "VB")  # nouns, adjectives, verbs: the beginnings of Penn Treebank tags


def random_mask_tokenize(
    texts: str | Iterable[str],
    context_length: int,
    sot_token_id: int,
    eot_token_id: int,
    encode_fn: Encode,
    shuffle: bool = False,
) -> LongTensor:
    """Keep any L - 2 tokens of a caption that has more, drawn from torch's generator.

    Args:
        texts: N captions.
        context_length: L.
        sot_token_id, eot_token_id: the ids around each caption.
        encode_fn: one caption to its ids.
        shuffle: keep them in the order drawn, not in their own.

    Returns:
        (N, L) int64, padded with zeros.
    """
    import torch

    def keep(ids: list[int], room: int) -> list[int]:
        drawn = torch.randperm(len(ids))[:room]
        return [ids[i] for i in (drawn if shuffle else drawn.msort()).tolist()]

    return _rows(texts, context_length, sot_token_id, eot_token_id, encode_fn, keep)


def simple_mask_tokenize(
    texts: str | Iterable[str], context_length: int, sot_token_id: int, eot_token_id: int, encode_fn: Encode
) -> LongTensor:
    """Keep a run of L - 2 tokens of a caption that has more, begun where Python's `random` says.

    Arguments and result are those of `random_mask_tokenize`.
    """

    def keep(ids: list[int], room: int) -> list[int]:
        start = random.randint(0, len(ids) - room)
        return ids[start : start + room]

    return _rows(texts, context_length, sot_token_id, eot_token_id, encode_fn, keep)


def syntax_mask_tokenize(
    texts: str | Iterable[str], context_length: int, sot_token_id: int, eot_token_id: int, encode_fn: Encode
) -> LongTensor:
    """Keep L - 2 words of a caption that has more: nouns, then adjectives, then verbs, then the others.

    A word may be several tokens, so what is left is cut at L. Arguments and result are those of
    `random_mask_tokenize`.

    Raises:
        MissingExtraError: without nltk, which tells parts of speech.
        ConfigError: without its data.
    """
    nltk = _nltk()
    shorter = []
    for text in as_list(texts):
        words = nltk.tokenize.word_tokenize(text)
        order = np.array([_order(tag) for _, tag in nltk.pos_tag(words)], dtype=np.int64)
        # NumPy's default sort is not stable: which of the equals stay is part of the published result
        kept = sorted(np.argsort(order)[: context_length - 2].tolist())
        shorter.append(" ".join(words[i] for i in kept).strip())
    return _rows(shorter, context_length, sot_token_id, eot_token_id, encode_fn, lambda ids, room: ids[:room])


_REDUCTIONS: dict[str, Reduction] = {
    "simple": simple_mask_tokenize,
    "random": random_mask_tokenize,
    "shuffle": partial(random_mask_tokenize, shuffle=True),
    "syntax": syntax_mask_tokenize,
}


def get_reduction_mask_fn(type: str) -> Reduction:
    """The reduction of that name: "simple", "random", "shuffle" or "syntax".

    Raises:
        ConfigError: if there is none.
    """
    if not isinstance(type, str) or type not in _REDUCTIONS:
        raise ConfigError(f"unknown way to shorten a text {type!r}; available: {', '.join(_REDUCTIONS)}")
    return _REDUCTIONS[type]


def _rows(
    texts: str | Iterable[str],
    length: int,
    sot: int,
    eot: int,
    encode: Encode,
    keep: Callable[[list[int], int], list[int]],
) -> LongTensor:
    import torch

    room = length - 2
    kept = [ids if len(ids) <= room else keep(ids, room) for ids in map(encode, as_list(texts))]
    counts = np.array([len(ids) for ids in kept], dtype=np.int64)
    flat = np.array([i for ids in kept for i in ids], dtype=np.int64)
    return torch.from_numpy(pack(flat, counts, length, [sot], [eot], 0))  # type: ignore[return-value]


def _order(tag: str) -> int:
    """How soon a word of this part of speech is kept."""
    return next((place for place, first in enumerate(_FIRST_TAGS) if tag.startswith(first)), len(_FIRST_TAGS))


def _nltk() -> Any:
    try:
        nltk = import_module("nltk")  # typed by nobody
    except ImportError as error:
        raise MissingExtraError("Shortening captions by parts of speech", "syntax") from error
    for name, path in NLTK_DATA.items():
        try:
            nltk.data.find(path)
        except LookupError as error:
            raise ConfigError(
                f"nltk has not the data {name!r} that tells parts of speech: python -m nltk.downloader {name}"
            ) from error
    return nltk
