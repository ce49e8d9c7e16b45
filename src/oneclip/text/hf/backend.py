"""Build the encoder of texts from `tokenizer.json` or from older vocabulary files.

A `tokenizer.json` describes every step from text to ids. Older files contain only a vocabulary; the steps follow from
the kind of the tokenizer (its class in transformers).
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
from oneclip.text.hf.special_tokens import SpecialTokenTemplate, read_special_token_template
from oneclip.text.hf.tokenizer_config import (
    BERT_KINDS,
    BYTE_LEVEL_KINDS,
    MAX_FILE_BYTES,
    MERGES,
    TOKENIZER_JSON,
    VOCAB_JSON,
    VOCAB_TXT,
    TokenizerSettings,
    check_file_size,
)

MAX_GROWTH = (
    10_000  # largest factor by which replacements may lengthen a text; published tokenizers stay near 1
)


class TokenIds(Mapping[str, int]):
    """View of a vocabulary, token to id, without a second copy: some have 900,000 tokens."""

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


class TokenizerBackend:
    """Encoder and decoder of texts without special tokens around them. Can be shared between threads and pickled.

    Args:
        tokenizer: all steps from text to ids; its padding and truncation are removed.

    Attributes:
        vocabulary: token to id, including added tokens.
        added: ids of tokens that were added to the vocabulary, and of special tokens.
        template: special tokens around a text according to the file; None if it has none.
        padding: `pad_token` and `direction` according to the file; None if it has none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.template = read_special_token_template(tokenizer.post_processor)
        self.padding = tokenizer.padding
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = False
        self._tokenizer = tokenizer
        self.vocabulary = TokenIds(tokenizer)
        self.added = set(tokenizer.get_added_tokens_decoder())

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenizerBackend, (self._tokenizer,)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return all ids of each text.

        Raises:
            CheckpointError: if a step in the file fails.
        """
        with _catch_panics():
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Return the text of ids that are in the vocabulary."""
        with _catch_panics():
            return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)


@contextmanager
def _catch_panics() -> Iterator[None]:
    """Convert errors and panics of the library to CheckpointError. A panic is not an `Exception` there."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"a step in the files of the tokenizer failed: {error}") from error


def read_backend(files: Mapping[str, Path], settings: TokenizerSettings) -> TokenizerBackend:
    """Build the backend from the files of a tokenizer.

    Args:
        files: name to path.
        settings: content of the settings files.

    Raises:
        CheckpointError: if a file cannot be read.
        ConfigError: if the files are incomplete.
    """
    if TOKENIZER_JSON in files:
        tokenizer = _read_tokenizer_json(files[TOKENIZER_JSON], settings)
    elif VOCAB_TXT in files:
        tokenizer = _build_word_piece(files[VOCAB_TXT], settings)
    elif VOCAB_JSON in files:
        tokenizer = _build_byte_level(files[VOCAB_JSON], files[MERGES], settings)
    else:
        tokenizer = _build_sentencepiece(
            next(path for name, path in files.items() if name.endswith(".model")), settings
        )
    _add_tokens(tokenizer, settings)
    return TokenizerBackend(tokenizer)


def _read_tokenizer_json(path: Path, settings: TokenizerSettings) -> Tokenizer:
    """Read a `tokenizer.json`, and apply options of the settings files that override it."""
    check_file_size(path)
    try:
        with _catch_panics():
            tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} is not a readable tokenizer: {error}") from error
    for steps in (tokenizer.normalizer, tokenizer.decoder):
        if steps is not None and _growth(json.loads(steps.__getstate__())) > MAX_GROWTH:
            raise CheckpointError(
                f"{path} cannot be used as a tokenizer: its chain of replacements can make a text more than "
                f"{MAX_GROWTH:,} times longer"
            )
    options = settings.options
    if settings.kind in BERT_KINDS and isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        tokenizer.normalizer = _bert_normalizer(options)
    if settings.kind in BYTE_LEVEL_KINDS and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel):
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(options.get("add_prefix_space", False)),
            use_regex=tokenizer.pre_tokenizer.use_regex,
        )
    if settings.kind == "Siglip2Tokenizer":  # trained on lower case; older files lack this step
        steps = [normalizers.Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def _growth(step: Mapping[str, Any]) -> float:
    """Estimate the largest factor by which a step of a tokenizer can lengthen a text."""
    kind, content = step.get("type"), step.get("content")
    if kind == "Sequence":
        inner = step.get("normalizers") or step.get("decoders") or ()
        return math.prod(map(_growth, inner), start=1.0)
    if kind != "Replace" or not isinstance(content, str):
        return 1.0
    plain = (step.get("pattern") or {}).get("String")
    # a regular expression can match between any two characters
    return max(1.0, len(content) / len(plain)) if plain else 1.0 + len(content)


def _build_word_piece(path: Path, settings: TokenizerSettings) -> Tokenizer:
    """Build BERT's tokenizer (Devlin et al. 2019) from a vocabulary with one token per line."""
    lines = _read_text(path).split("\n")
    vocabulary = {line: i for i, line in enumerate(lines[:-1] if not lines[-1] else lines)}
    if settings.kind not in BERT_KINDS:
        raise _unknown_kind_error(settings, path)
    roles = settings.roles(vocabulary)
    needed = _required_tokens(roles, ("unk", "cls", "sep"), settings, path)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=needed[0]))
    tokenizer.normalizer = _bert_normalizer(settings.options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = SpecialTokenTemplate.of(
        TokenIds(tokenizer), needed[1:2], needed[2:]
    ).processor()
    return tokenizer


def _build_byte_level(vocabulary: Path, merges: Path, settings: TokenizerSettings) -> Tokenizer:
    """Build RoBERTa's tokenizer (Liu et al. 2019) from a vocabulary, and merges with one pair per line."""
    if settings.kind not in BYTE_LEVEL_KINDS:
        raise _unknown_kind_error(settings, vocabulary)
    try:
        ids = read_json(vocabulary, MAX_FILE_BYTES)
        lines = [line.strip() for line in _read_text(merges).split("\n")]
        pairs: Any = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        tokenizer = Tokenizer(models.BPE(ids, pairs, continuing_subword_prefix="", end_of_word_suffix=""))
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(
            f"{vocabulary} and {merges} are not a vocabulary and merges: {error}"
        ) from error
    needed = _required_tokens(settings.roles(ids), ("cls", "sep"), settings, vocabulary)
    prefix = bool(settings.options.get("add_prefix_space", False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = SpecialTokenTemplate.of(
        TokenIds(tokenizer), needed[:1], needed[1:]
    ).processor()
    if "<mask>" in ids:  # a mask includes the space before it
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return tokenizer


def _build_sentencepiece(path: Path, settings: TokenizerSettings) -> Tokenizer:
    """Build a tokenizer from a sentencepiece model."""
    tokenizer = convert_model(path, settings)
    roles = settings.roles(TokenIds(tokenizer))
    if settings.kind == "XLMRobertaTokenizer":
        cls, sep = _required_tokens(roles, ("cls", "sep"), settings, path)
        tokenizer.post_processor = SpecialTokenTemplate.of(TokenIds(tokenizer), [cls], [sep]).processor()
    elif settings.kind in T5_KINDS:
        tokenizer.post_processor = SpecialTokenTemplate.of(
            TokenIds(tokenizer), [], _required_tokens(roles, ("eos",), settings, path)
        ).processor()
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    """Register special and added tokens, so that they are never split."""
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


def _required_tokens(
    roles: Mapping[str, str], wanted: Sequence[str], settings: TokenizerSettings, path: Path
) -> list[str]:
    for role in wanted:
        if role not in roles:
            raise ConfigError(
                f"{settings.source} does not set {role}_token, and {path.name} does not contain the usual one"
            )
    return [roles[role] for role in wanted]


def _unknown_kind_error(settings: TokenizerSettings, path: Path) -> ConfigError:
    return ConfigError(
        f"{settings.source} has {path.name} but no {TOKENIZER_JSON}, and a {settings.kind} cannot be built from it: "
        f"save it once with transformers' AutoTokenizer, which writes a {TOKENIZER_JSON}"
    )


def _read_text(path: Path) -> str:
    check_file_size(path)
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
