"""Tokenizer that is read from the files of a repository, without transformers.

Shapes: N texts, L context length.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from oneclip.errors import ConfigError, OutputError, nearest_names
from oneclip.hub import read_json
from oneclip.text.batching.padding import (
    as_id_list,
    as_text_list,
    check_context_length,
    check_lengths,
    check_overflow,
    check_token_range,
    pack_rows,
)
from oneclip.text.clean import get_clean_fn
from oneclip.text.hf.backend import read_backend
from oneclip.text.hf.special_tokens import SpecialTokenTemplate
from oneclip.text.hf.tokenizer_config import GEMMA_KINDS, LANGUAGE_KINDS, TOKENIZER_CONFIG, read_settings
from oneclip.text.hf.tokenizer_files import require_tokenizer_files

if TYPE_CHECKING:
    from torch import LongTensor

CLIPS_ROLES = ("bos", "eos", "cls")  # start and end of text, and the class token at the end of the row
Ids = NDArray[np.int64]


class HFTokenizer:
    """Tokenizer from Hugging Face files: `tokenizer.json`, or the older files before it.

    Every row has the full context length, because a tower that was trained with padded rows reads the padding. The
    tokenizer can be shared between threads, pickled, and used after a fork.

    Args:
        source: a folder, `owner/name` or `hf-hub:owner/name[/subfolder][@revision]` on the hub, or the files, name to
            path.
        context_length: L, the length of a row; None if each call passes it.
        clean: cleaning of a text: "lower", "whitespace" or "canonicalize".
        strip_sep_token: replace separators by zeros, as the weights of CLIPA expect.
        language: language code of the texts, if rows contain one (NLLB: "eng_Latn").
        tokenizer_mode: "clips" for start of text, text, end of text, padding, and the class token at the end of the
            row; None for the format in the files of the tokenizer.
        cache_dir: cache folder of the hub; None for the default.
        options: settings that replace those of `tokenizer_config.json`, such as `padding_side="right"`.

    Attributes:
        files: name to path of the files that were read.
        special_tokens: role ("bos", "eos", "unk", "sep", "pad", "cls", "mask") to token.

    Raises:
        ConfigError: if an option is invalid, or the files are incomplete.
        CheckpointError: if a file cannot be read.
        DownloadError: if a file cannot be downloaded.
    """

    def __init__(
        self,
        source: str | PathLike[str] | Mapping[str, Path],
        context_length: int | None = 77,
        *,
        clean: str = "whitespace",
        strip_sep_token: bool = False,
        language: str | None = None,
        tokenizer_mode: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if tokenizer_mode not in (None, "", "clips"):
            raise ConfigError(f"tokenizer_mode is {tokenizer_mode!r}; expected 'clips' or None")
        self.clean_fn = get_clean_fn(clean)
        self.files = (
            dict(source) if isinstance(source, Mapping) else require_tokenizer_files(source, cache_dir)
        )
        self.name = str(next(iter(self.files.values())).parent if isinstance(source, Mapping) else source)
        self.settings = settings = read_settings(self.files, options, self.name)
        self.backend = read_backend(self.files, settings)
        self.vocab_size = len(self.backend.vocabulary)
        padding = self.backend.padding or {}
        self.special_tokens = settings.roles(self.backend.vocabulary, padding.get("pad_token"))
        self.padding_side = settings.side("padding", str(padding.get("direction", "right")).lower())
        self.truncation_side = settings.side("truncation")
        self.pad_token_id = self._required_id("pad")
        self.strip_sep_token, self.tokenizer_mode = strip_sep_token, tokenizer_mode or ""
        self._stripped_id = self._required_id("sep") if strip_sep_token else None
        self._template = self._default_template()
        self.language: str | None = None
        if language or self.carries_language:
            default = settings.options.get("src_lang") or LANGUAGE_KINDS.get(settings.kind)
            self.set_language(language or default)
        if self.tokenizer_mode == "clips":
            for role in CLIPS_ROLES:
                self._required_token(role)
        self.context_length = None
        if context_length is not None:
            self.context_length = check_context_length(context_length, self._special_count)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.vocab_size} ids, rows of {self.context_length}>"

    def __call__(
        self,
        texts: str | Iterable[str],
        context_length: int | None = None,
        *,
        overflow: Literal["truncate", "error"] = "truncate",
    ) -> LongTensor:
        """Tokenize texts for a text tower.

        Args:
            texts: one text, or N texts.
            context_length: L; None for that of the tokenizer.
            overflow: treatment of texts with more than L tokens: "truncate" keeps the tokens that fit and the special
                tokens around them; "error" raises.

        Returns:
            (N, L) int64 on the CPU, padded to L.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or too small, or `overflow` has another value.
        """
        import torch

        return torch.from_numpy(self.token_ids(texts, context_length, overflow=overflow))  # type: ignore[return-value]

    def token_ids(
        self,
        texts: str | Iterable[str],
        context_length: int | None = None,
        *,
        overflow: Literal["truncate", "error"] = "truncate",
    ) -> NDArray[np.int64]:
        """Tokenize texts without torch; arguments, result and errors as of a call, as an array."""
        length = self._length(context_length)
        check_overflow(overflow)
        texts = as_text_list(texts)
        encoded = self.backend.encode(list(map(self.clean_fn, texts)))
        if overflow == "error":
            check_lengths(texts, _counts(encoded) + self._special_count, length)
        return (self._clips_rows if self.tokenizer_mode == "clips" else self._rows)(encoded, length)

    def encode(self, text: str) -> list[int]:
        """Return all ids of one text, without special tokens around it."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return all ids of each text, without special tokens around it."""
        return self.backend.encode([self.clean_fn(text) for text in as_text_list(texts)])

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of (L,) ids.

        Raises:
            TokenRangeError: naming the first id outside the vocabulary.
            ShapeError: if the ids are not one sequence of integers.
        """
        values = as_id_list(ids)
        check_token_range(values, self.vocab_size)
        return self.backend.decode(values, skip_special_tokens)

    def token_id(self, role: str) -> int | None:
        """Return the id of the special token with a role ("bos", "eos", …), or None if there is none."""
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.vocabulary.get(token)

    @property
    def carries_language(self) -> bool:
        """True if rows contain the language of their text."""
        return self.settings.kind in LANGUAGE_KINDS

    def set_language(self, language: str | None) -> None:
        """Set the language code in the rows.

        Raises:
            ConfigError: if rows do not contain a language, or the code is not in the vocabulary.
        """
        kind, vocabulary = self.settings.kind, self.backend.vocabulary
        if not self.carries_language:
            raise ConfigError(
                f"the rows of {self.name} do not contain a language; only those of NLLB's and mBART's tokenizers do"
            )
        if language not in vocabulary:
            codes = (token for token in vocabulary if "_" in token[1:-1] and len(token) < 9)
            near = nearest_names(str(language), codes)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"{language!r} is not a language code of {self.name}{hint}")
        code, end = str(language), self._required_token("eos")
        is_after_text = kind == "MBartTokenizer" or bool(self.settings.options.get("legacy_behaviour"))
        before, after = ([], [end, code]) if is_after_text else ([code], [end])
        self._template = SpecialTokenTemplate.of(vocabulary, before, after)
        self.language = code

    def save_pretrained(self, dest: str | PathLike[str]) -> list[Path]:
        """Write the tokenizer to a folder that is complete by itself.

        Vocabulary files are copied. `tokenizer_config.json` is written with all settings.

        Returns:
            The written files.

        Raises:
            OutputError: if a file cannot be written.
        """
        target = Path(dest)
        written = []
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, path in self.files.items():
                if name == TOKENIZER_CONFIG:
                    continue
                written.append(target / name)
                if not (written[-1].exists() and written[-1].samefile(path)):
                    shutil.copyfile(path, written[-1])
            config = read_json(self.files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in self.files else {}
            config |= self.settings.complete(self.special_tokens, self.padding_side)
            config |= {"src_lang": self.language} if self.language else {}
            written.append(target / TOKENIZER_CONFIG)
            written[-1].write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error}") from error
        return written

    def _length(self, context_length: int | None) -> int:
        if context_length is not None:
            return check_context_length(context_length, self._special_count)
        if self.context_length is None:
            raise ConfigError("this tokenizer has no context length; pass context_length")
        return self.context_length

    @property
    def _special_count(self) -> int:
        """Number of special tokens in a row."""
        return len(CLIPS_ROLES) if self.tokenizer_mode == "clips" else sum(map(len, self._template))

    def _rows(self, encoded: list[list[int]], length: int) -> Ids:
        """Arrange ids in (N, L) rows in the format of the tokenizer files."""
        before, after = self._template.ids()
        rows = pack_rows(
            _concatenated(encoded),
            _counts(encoded),
            length,
            before,
            after,
            self.pad_token_id,
            self.padding_side,
            self.truncation_side,
        )
        if self._stripped_id is not None:
            rows[rows == self._stripped_id] = 0
        return rows

    def _clips_rows(self, encoded: list[list[int]], length: int) -> Ids:
        """Arrange ids in (N, L) rows in the format of the "clips" mode."""
        start, end, last = (self._required_id(role) for role in CLIPS_ROLES)
        rows = pack_rows(
            _concatenated(encoded), _counts(encoded), length - 1, [start], [end], self.pad_token_id
        )
        return np.append(rows, np.full((len(rows), 1), last), axis=1)

    def _default_template(self) -> SpecialTokenTemplate:
        """Make the special tokens around a text according to the files."""
        options, kind = self.settings.options, self.settings.kind
        template = self.backend.template
        has_options = kind in GEMMA_KINDS and ("add_bos_token" in options or "add_eos_token" in options)
        if template is not None and not has_options:
            return template
        bos = [self._required_token("bos")] if options.get("add_bos_token", kind in GEMMA_KINDS) else []
        eos = [self._required_token("eos")] if options.get("add_eos_token", False) else []
        return SpecialTokenTemplate.of(self.backend.vocabulary, bos, eos)

    def _required_token(self, role: str) -> str:
        if self.token_id(role) is None:
            raise ConfigError(
                f"{self.name} does not define its {role}_token, and a wrong one gives plausible but wrong numbers: "
                f"add it to its {TOKENIZER_CONFIG}, or pass {role}_token= as an option of the tokenizer"
            )
        return self.special_tokens[role]

    def _required_id(self, role: str) -> int:
        return self.backend.vocabulary[self._required_token(role)]


def _counts(encoded: list[list[int]]) -> Ids:
    return np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))


def _concatenated(encoded: list[list[int]]) -> Ids:
    return np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
