"""A tokenizer's own file to what cuts texts into ids: `tokenizer.json`, or one of the older forms before it.

A `tokenizer.json` holds the whole way from text to ids and is followed as it is written. The older files hold a
vocabulary only; the rest is what the tokenizer's kind prescribes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from oneclip.errors import CheckpointError, ConfigError
from oneclip.hub import read_json
from oneclip.text.hf.sentencepiece_model import T5_KINDS, convert_model
from oneclip.text.hf.special_tokens import Template, read_template
from oneclip.text.hf.tokenizer_config import (
    BERT_KINDS,
    BYTE_LEVEL_KINDS,
    JSON,
    LARGEST_FILE,
    MERGES,
    VOCAB_JSON,
    VOCAB_TXT,
    Settings,
    check_file_size,
)

MOST_GROWTH = 10_000  # times that a text may become longer; published tokenizers hardly make it longer at all


class TokenIds(Mapping[str, int]):
    """Token to id, asked of the tokenizer rather than held twice: some vocabularies have 900,000 tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __getitem__(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._tokenizer.get_vocab(with_added_tokens=True))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)


class Pieces:
    """Texts to ids and back, with nothing put around them. May be shared between threads and pickled.

    Args:
        tokenizer: the whole way from text to ids; its padding and truncation are taken off.

    Attributes:
        vocabulary: token to id, those that were added included.
        added: ids of the tokens that were added to the vocabulary, or are special.
        template: what the file says is put around a text; None if it says nothing.
        padding: what the file pads with: `pad_token` and `direction`; None if it says nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.template = read_template(tokenizer.post_processor)
        self.padding = tokenizer.padding
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = False
        self._tokenizer = tokenizer
        self.vocabulary = TokenIds(tokenizer)
        self.added = set(tokenizer.get_added_tokens_decoder())

    def __reduce__(self) -> tuple[Any, ...]:
        return Pieces, (self._tokenizer,)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, however many.

        Raises:
            CheckpointError: if what the file prescribes cannot be carried out to its end.
        """
        with _no_panics():
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text of ids, all of which are in the vocabulary."""
        with _no_panics():
            return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)


@contextmanager
def _no_panics() -> Iterator[None]:
    """Turn what the library raises, of which panics are no `Exception`, into an error that programs catch."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"the tokenizer's own files prescribe what cannot be carried out to its end: {error}"
        ) from error


def read_pieces(files: Mapping[str, Path], settings: Settings) -> Pieces:
    """Read the file that cuts texts into ids.

    Args:
        files: name to path.
        settings: what lies beside it.

    Raises:
        CheckpointError: for a file that cannot be read.
        ConfigError: for files that do not say enough.
    """
    if JSON in files:
        tokenizer = _from_json(files[JSON], settings)
    elif VOCAB_TXT in files:
        tokenizer = _word_piece(files[VOCAB_TXT], settings)
    elif VOCAB_JSON in files:
        tokenizer = _byte_level(files[VOCAB_JSON], files[MERGES], settings)
    else:
        tokenizer = _sentence_pieces(
            next(path for name, path in files.items() if name.endswith(".model")), settings
        )
    _add_tokens(tokenizer, settings)
    return Pieces(tokenizer)


def _from_json(path: Path, settings: Settings) -> Tokenizer:
    """A `tokenizer.json`, with those of its settings that stand beside it too as they are there."""
    check_file_size(path)
    try:
        with _no_panics():
            tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
    for steps in (tokenizer.normalizer, tokenizer.decoder):
        if steps is not None and _growth(json.loads(steps.__getstate__())) > MOST_GROWTH:
            raise CheckpointError(
                f"{path} cannot be used as a tokenizer: its replacements follow each other and make a text more than "
                f"{MOST_GROWTH:,} times longer"
            )
    options = settings.options
    if settings.kind in BERT_KINDS and isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        tokenizer.normalizer = _bert_normalizer(options)
    if settings.kind in BYTE_LEVEL_KINDS and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(options.get("add_prefix_space", False)),
            use_regex=tokenizer.pre_tokenizer.use_regex,
        )
    if (
        settings.kind == "Siglip2Tokenizer"
    ):  # SigLIP 2 was trained on lower case, and its older files leave it out
        steps = [normalizers.Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _growth(step: Mapping[str, Any]) -> float:
    """How many times longer a step of a tokenizer can make a text, at most and roughly."""
    kind, content = step.get("type"), step.get("content")
    if kind == "Sequence":
        inner = step.get("normalizers") or step.get("decoders") or ()
        return math.prod(map(_growth, inner), start=1.0)
    if kind != "Replace" or not isinstance(content, str):
        return 1.0
    plain = (step.get("pattern") or {}).get("String")
    # an expression can match between any two characters
    return max(1.0, len(content) / len(plain)) if plain else 1.0 + len(content)


def _word_piece(path: Path, settings: Settings) -> Tokenizer:
    """A vocabulary, a token a line, to BERT's tokenizer (Devlin et al. 2019)."""
    lines = _text(path).split("\n")
    vocabulary = {line: i for i, line in enumerate(lines[:-1] if not lines[-1] else lines)}
    if settings.kind not in BERT_KINDS:
        raise _unbuildable(settings, path)
    roles = settings.roles(vocabulary)
    needed = _needed(roles, ("unk", "cls", "sep"), settings, path)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=needed[0]))
    tokenizer.normalizer = _bert_normalizer(settings.options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = Template.of(TokenIds(tokenizer), needed[1:2], needed[2:]).processor()
    return tokenizer


def _byte_level(vocabulary: Path, merges: Path, settings: Settings) -> Tokenizer:
    """A vocabulary and its merges, a pair a line, to RoBERTa's tokenizer (Liu et al. 2019)."""
    if settings.kind not in BYTE_LEVEL_KINDS:
        raise _unbuildable(settings, vocabulary)
    try:
        ids = read_json(vocabulary, LARGEST_FILE)
        lines = [line.strip() for line in _text(merges).split("\n")]
        pairs: Any = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        tokenizer = Tokenizer(models.BPE(ids, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(
            f"{vocabulary} and {merges} are not a vocabulary and merges: {error}"
        ) from error
    needed = _needed(settings.roles(ids), ("cls", "sep"), settings, vocabulary)
    prefix = bool(settings.options.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = Template.of(TokenIds(tokenizer), needed[:1], needed[1:]).processor()
    if "<mask>" in ids:  # the space before a mask belongs to it
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return tokenizer


def _sentence_pieces(path: Path, settings: Settings) -> Tokenizer:
    """A sentencepiece model to the tokenizer of its kind."""
    tokenizer = convert_model(path, settings)
    roles = settings.roles(TokenIds(tokenizer))
    if settings.kind == "XLMRobertaTokenizer":
        cls, sep = _needed(roles, ("cls", "sep"), settings, path)
        tokenizer.post_processor = Template.of(TokenIds(tokenizer), [cls], [sep]).processor()
    elif settings.kind in T5_KINDS:
        tokenizer.post_processor = Template.of(
            TokenIds(tokenizer), [], _needed(roles, ("eos",), settings, path)
        ).processor()
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, settings: Settings) -> None:
    """Have special and added tokens found whole in a text, whatever stands around them."""
    tokenizer.add_tokens(list(settings.added.values()))
    known = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    roles = settings.roles(TokenIds(tokenizer))
    stated = {token.content: token for token in settings.tokens.values() if token}
    special = {
        content: stated.get(content, AddedToken(content, normalized=False)) for content in roles.values()
    }
    special |= {token.content: token for token in settings.extra}
    tokenizer.add_special_tokens([known.get(content, token) for content, token in special.items()])


def _bert_normalizer(options: Mapping[str, Any]) -> normalizers.Normalizer:
    return normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(options.get("tokenize_chinese_chars", True)),
        strip_accents=options.get("strip_accents"),
        lowercase=bool(options.get("do_lower_case", True)),
    )


def _needed(roles: Mapping[str, str], wanted: Sequence[str], settings: Settings, path: Path) -> list[str]:
    for role in wanted:
        if role not in roles:
            raise ConfigError(
                f"{settings.source} names no {role}_token, and {path.name} has none of the usual"
            )
    return [roles[role] for role in wanted]


def _unbuildable(settings: Settings, path: Path) -> ConfigError:
    return ConfigError(
        f"{settings.source} has {path.name} but no {JSON}, and how a {settings.kind} uses it is unknown: "
        f"save it once with transformers' AutoTokenizer, which writes a {JSON}"
    )


def _text(path: Path) -> str:
    check_file_size(path)
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
