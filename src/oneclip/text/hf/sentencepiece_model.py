"""Read a sentencepiece model (`.model`) as data and build a tokenizer from it.

The ids equal those of transformers, and so of open_clip, for a repository that contains only a `.model`. sentencepiece
itself returns other ids for a few marks that combine with the previous character.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from oneclip.errors import CheckpointError, ConfigError
from oneclip.text.hf.tokenizer_config import GEMMA_KINDS, TokenizerSettings, check_file_size

T5_KINDS = ("T5Tokenizer", "MT5Tokenizer", "SiglipTokenizer")
UNIGRAM, BPE = 1, 2  # numbers of model types in the file
_CONTROL, _USER_DEFINED = 3, 4  # numbers of piece types in the file
_FAIRSEQ_FIRST = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
_SPACE = "▁"
MAX_PIECE_LENGTH = 256  # characters; sentencepiece itself makes pieces of up to 16, users can add longer ones
MAX_SENTINELS = 2**14  # published tokenizers have 100


@dataclass
class SentencePieceModel:
    """Content of a `.model` (Kudo and Richardson 2018; field numbers from sentencepiece_model.proto).

    Attributes:
        pieces: pieces with their scores; the position is the id.
        never_split: pieces that are searched in a text first; True for control symbols.
        charsmap: replacements that normalize a text, compiled by sentencepiece.
        model_type: UNIGRAM or BPE.
        unk_id: id of unknown text.
    """

    pieces: list[tuple[str, float]] = field(default_factory=list)
    never_split: dict[str, bool] = field(default_factory=dict)
    charsmap: bytes = b""
    model_type: int = UNIGRAM
    unk_id: int = 0


def read_model(path: Path) -> SentencePieceModel:
    """Read a `.model`.

    Raises:
        CheckpointError: if the file is not a sentencepiece model, or is damaged.
    """
    model, seen = SentencePieceModel(), set()
    try:
        check_file_size(path)
        for number, value in _fields(path.read_bytes()):
            seen.add(number)
            if number == 1 and isinstance(value, bytes):
                piece = dict(_fields(value))
                text = bytes(piece.get(1, b"")).decode("utf-8")
                if len(text) > MAX_PIECE_LENGTH:
                    raise CheckpointError(
                        f"{path} has a piece of {len(text):,} characters; expected at most {MAX_PIECE_LENGTH}"
                    )
                score: float = struct.unpack("<f", bytes(piece.get(2, b"\0\0\0\0")))[0]
                model.pieces.append((text, score))
                if piece.get(3, 1) in (_CONTROL, _USER_DEFINED):
                    model.never_split[text] = piece[3] == _CONTROL
            elif number == 2 and isinstance(value, bytes):
                trainer = dict(_fields(value))
                model.model_type, model.unk_id = int(trainer.get(3, UNIGRAM)), int(trainer.get(40, 0))
            elif number == 3 and isinstance(value, bytes):
                model.charsmap = bytes(dict(_fields(value)).get(2, b""))
    except (OSError, ValueError, TypeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{path} is not a readable sentencepiece model: {error}") from error
    if not {1, 2, 3} <= seen:
        raise CheckpointError(
            f"{path} is not a sentencepiece model, or it is truncated: pieces or settings are missing"
        )
    return model


def convert_model(path: Path, settings: TokenizerSettings) -> Tokenizer:
    """Build a tokenizer from a `.model`.

    Args:
        path: the file.
        settings: content of the settings files; their kind defines how pieces become ids.

    Raises:
        CheckpointError: if the file is damaged.
        ConfigError: if the ids of this kind of tokenizer cannot be derived from the model.
    """
    model, kind = read_model(path), settings.kind
    fits = {UNIGRAM: (*T5_KINDS, "XLMRobertaTokenizer"), BPE: GEMMA_KINDS}.get(model.model_type, ())
    if kind not in fits:
        raise ConfigError(
            f"{settings.source} has {path.name} but no tokenizer.json, and a {kind or 'tokenizer of no kind'} cannot "
            "be built from it: save it once with transformers' AutoTokenizer, which writes a tokenizer.json"
        )
    try:
        tokenizer = (
            _build_gemma(model, settings) if model.model_type == BPE else _build_unigram(model, settings)
        )
    except ConfigError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"no tokenizer can be built from the pieces in {path}: {error}") from error
    never_split = model.never_split.items()
    tokenizer.add_tokens(
        [AddedToken(text, normalized=False, special=control) for text, control in never_split]
    )
    return tokenizer


def _build_unigram(model: SentencePieceModel, settings: TokenizerSettings) -> Tokenizer:
    pieces, unk_id = model.pieces, model.unk_id
    if settings.kind == "XLMRobertaTokenizer":  # fairseq has other special tokens before the pieces
        pieces, unk_id = [*_FAIRSEQ_FIRST, *pieces[3:], ("<mask>", 0.0)], 3
        model.never_split = {}
    numbers = reversed(range(_sentinel_count(settings)))  # T5 counts down
    sentinels = [f"<extra_id_{i}>" for i in numbers]
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


def _sentinel_count(settings: TokenizerSettings) -> int:
    count = settings.options.get("extra_ids") or 0
    if not isinstance(count, int) or not 0 <= count <= MAX_SENTINELS:
        raise ConfigError(
            f"extra_ids of {settings.source} is {str(count)[:40]}; expected a whole number up to {MAX_SENTINELS:,}"
        )
    return count


def _build_gemma(model: SentencePieceModel, settings: TokenizerSettings) -> Tokenizer:
    """Build byte-pair encoding that writes unknown text as bytes (Gemma Team 2024)."""
    pieces = list(model.pieces)
    names = [text for text, _ in pieces]
    for place, role in enumerate(("pad", "eos", "bos")):
        stated = settings.tokens.get(role)
        if stated is not None:
            pieces[place] = (stated.content, 0.0)
    if "\t" not in names and "<0x09>" in names:  # older files contain the tab as a byte
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
    """Derive the merges from the scores: every split of a piece into two pieces, the best piece first.

    Splits of one piece are sorted by a longer left part, then by lower ids.
    """
    candidates = []
    for text, score in pieces:
        splits = ((text[:at], text[at:]) for at in range(1, len(text)))
        known = [
            (ids[left], ids[right], left, right) for left, right in splits if left in ids and right in ids
        ]
        candidates += [(score, len(left), len(right), left, right) for _, _, left, right in sorted(known)]
    candidates.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in candidates]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer: number, and an integer or bytes."""
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
            raise ValueError(f"a field has the unknown type {key & 7}")
        length = varint() if length < 0 else length
        if at + length > len(message):
            raise ValueError("it is truncated")
        yield key >> 3, message[at : at + length]
        at += length
