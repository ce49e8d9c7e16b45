"""A sentencepiece model (`.model`) to the same as a `tokenizer.json`: pieces, scores and replacements, read as data.

The ids are those that transformers, and so open_clip, gives for a repository with nothing but a `.model`. sentencepiece
itself gives others for a few marks that join with the character before them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from oneclip.errors import CheckpointError, ConfigError
from oneclip.text.hf.tokenizer_config import GEMMA_KINDS, Settings, check_file_size

T5_KINDS = ("T5Tokenizer", "MT5Tokenizer", "SiglipTokenizer")
UNIGRAM, BPE = 1, 2  # kinds of model, as the file numbers them
_CONTROL, _USER_DEFINED = 3, 4  # kinds of piece
_FAIRSEQ_FIRST = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
_SPACE = "▁"
LONGEST_PIECE = 256  # characters; sentencepiece makes pieces of up to 16 by itself, and people add some
MOST_SENTINELS = 2**14  # published ones have 100


@dataclass
class SentencePieceModel:
    """What a `.model` holds (Kudo and Richardson 2018; the field numbers are those of sentencepiece_model.proto).

    Attributes:
        pieces: each with its score; its place is its id.
        found_whole: pieces that a text is searched for first; True for control symbols.
        charsmap: replacements that normalise a text, compiled by sentencepiece.
        model_type: UNIGRAM or BPE.
        unk_id: of what has no piece.
    """

    pieces: list[tuple[str, float]] = field(default_factory=list)
    found_whole: dict[str, bool] = field(default_factory=dict)
    charsmap: bytes = b""
    model_type: int = UNIGRAM
    unk_id: int = 0


def read_model(path: Path) -> SentencePieceModel:
    """Read a `.model`.

    Raises:
        CheckpointError: if it is none, or is damaged.
    """
    model, seen = SentencePieceModel(), set()
    try:
        check_file_size(path)
        for number, value in _fields(path.read_bytes()):
            seen.add(number)
            if number == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                text = bytes(piece.get(1, b"")).decode("utf-8")
                if len(text) > LONGEST_PIECE:
                    raise CheckpointError(f"{path} has a piece of {len(text):,} characters, too many for one")
                score: float = struct.unpack("<f", bytes(piece.get(2, b"\0\0\0\0")))[0]
                model.pieces.append((text, score))
                if piece.get(3, 1) in (_CONTROL, _USER_DEFINED):
                    model.found_whole[text] = piece[3] == _CONTROL
            elif number == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
                model.model_type, model.unk_id = int(trainer.get(3, UNIGRAM)), int(trainer.get(40, 0))
            elif number == 3 and isinstance(value, bytes):
                model.charsmap = bytes(dict(_fields(value)).get(2, b""))
    except (OSError, ValueError, TypeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path} is not a readable sentencepiece model: {error}") from error
    if not {1, 2, 3} <= seen:
        raise CheckpointError(
            f"{path} is not a sentencepiece model, or cut off: pieces or settings are missing"
        )
    return model


def convert_model(path: Path, settings: Settings) -> Tokenizer:
    """A `.model` to the whole way from text to ids.

    Args:
        path: the file.
        settings: what lies beside it; its kind says how ids follow from pieces.

    Raises:
        CheckpointError: if the file is damaged.
        ConfigError: for a kind whose ids do not follow from the model alone.
    """
    model, kind = read_model(path), settings.kind
    fits = {UNIGRAM: (*T5_KINDS, "XLMRobertaTokenizer"), BPE: GEMMA_KINDS}.get(model.model_type, ())
    if kind not in fits:
        raise ConfigError(
            f"{settings.source} has {path.name} but no tokenizer.json, and how a {kind or 'tokenizer of no kind'} uses "
            "it is unknown: save it once with transformers' AutoTokenizer, which writes a tokenizer.json"
        )
    try:
        tokenizer = _gemma(model, settings) if model.model_type == BPE else _unigram(model, settings)
    except ConfigError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"the pieces in {path} make no tokenizer: {error}") from error
    whole = model.found_whole.items()
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=control) for text, control in whole])
    return tokenizer


def _unigram(model: SentencePieceModel, settings: Settings) -> Tokenizer:
    pieces, unk_id = model.pieces, model.unk_id
    if (
        settings.kind == "XLMRobertaTokenizer"
    ):  # fairseq put four special tokens before, in place of the model's three
        pieces, unk_id = [*_FAIRSEQ_FIRST, *pieces[3:], ("<mask>", 0.0)], 3
        model.found_whole = {}
    sentinels = [
        f"<extra_id_{i}>" for i in reversed(range(_sentinel_count(settings)))
    ]  # T5's, the last one first
    pieces = pieces + [(sentinel, 0.0) for sentinel in sentinels]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id, byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(sentinel, normalized=False) for sentinel in sentinels])
    steps = [normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), _SPACE)]
    first = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    tokenizer.normalizer = normalizers.Sequence([*first, *steps])
    scheme = "always" if settings.options.get("legacy", True) is not False else "first"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    return tokenizer


def _sentinel_count(settings: Settings) -> int:
    count = settings.options.get("extra_ids") or 0
    if not isinstance(count, int) or not 0 <= count <= MOST_SENTINELS:
        raise ConfigError(
            f"extra_ids of {settings.source} is {str(count)[:40]} and must be a whole number up to {MOST_SENTINELS:,}"
        )
    return count


def _gemma(model: SentencePieceModel, settings: Settings) -> Tokenizer:
    """Byte-pair encoding that writes what it does not know as bytes (Gemma Team 2024)."""
    pieces = list(model.pieces)
    names = [text for text, _ in pieces]
    for place, role in enumerate(("pad", "eos", "bos")):
        stated = settings.tokens.get(role)
        if stated is not None:
            pieces[place] = (stated.content, 0.0)
    if "\t" not in names and "<0x09>" in names:  # older files write the tabulator as a byte
        pieces[names.index("<0x09>")] = ("\t", 0.0)
    ids = {text: i for i, (text, _) in enumerate(pieces)}
    bpe = models.BPE(ids, _merges(pieces, ids), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def _merges(pieces: list[tuple[str, float]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """The merges that scores stand for: every way to make a piece of two others, the best piece first.

    Of several ways, longer beginnings come first, and then those of lower ids.
    """
    ways = []
    for text, score in pieces:
        splits = ((text[:at], text[at:]) for at in range(1, len(text)))
        known = [
            (ids[left], ids[right], left, right) for left, right in splits if left in ids and right in ids
        ]
        ways += [(score, len(left), len(right), left, right) for _, _, left, right in sorted(known)]
    ways.sort(key=lambda way: way[:3], reverse=True)
    return [(left, right) for *_, left, right in ways]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protocol buffer: number, and an integer or the bytes it holds."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number does not end")

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        length = {1: 8, 2: -1, 5: 4}.get(key & 7)
        if length is None:
            raise ValueError(f"a field is of no known type ({key & 7})")
        length = varint() if length < 0 else length
        if at + length > len(message):
            raise ValueError("it is cut off")
        yield key >> 3, message[at : at + length]
        at += length
