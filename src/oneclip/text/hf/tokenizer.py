"""A repository's own tokenizer: captions to rows of ids as its files prescribe, without transformers.

Shapes: N captions, L the context length.
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

from oneclip.errors import ConfigError, OutputError, TokenRangeError, nearest
from oneclip.hub import read_json
from oneclip.text.batching.padding import (
    as_list,
    check_fits,
    check_overflow,
    checked_length,
    one_sequence,
    pack,
)
from oneclip.text.clean import get_clean_fn
from oneclip.text.hf.backend import read_pieces
from oneclip.text.hf.special_tokens import Template
from oneclip.text.hf.tokenizer_config import CONFIG, GEMMA_KINDS, LANGUAGE_KINDS, read_settings
from oneclip.text.hf.tokenizer_files import find_files

if TYPE_CHECKING:
    from torch import LongTensor

CLIPS_ROLES = ("bos", "eos", "cls")  # start and end of text, and the class token at the end of the row
Ids = NDArray[np.int64]


class HFTokenizer:
    """A tokenizer in the form of the Hugging Face hub's: `tokenizer.json`, or the older files that came before it.

    Every row has the full context length: a tower that was trained on padded rows reads the padding too. It may be
    shared between threads, pickled, and used after a fork.

    Args:
        source: a folder, `owner/name` or `hf-hub:owner/name[/subfolder][@revision]` on the hub, or the files
            themselves, name to path.
        context_length: L, the length of a row; None to be told at each call.
        clean: what is done to a caption first: "lower", "whitespace" or "canonicalize".
        strip_sep_token: make separators zeros, as the weights of CLIPA want it.
        language: the code of the captions' language, where rows carry one (NLLB: "eng_Latn").
        tokenizer_mode: "clips" for start of text, caption, end of text, padding, and the class token at the end of the
            row; None for what the tokenizer's files prescribe.
        cache_dir: the hub's cache, if not the usual one.
        options: what comes before what `tokenizer_config.json` says, such as `padding_side="right"`.

    Attributes:
        files: name to path of what was read.
        special_tokens: role ("bos", "eos", "unk", "sep", "pad", "cls", "mask") to token.

    Raises:
        ConfigError: for an option that cannot be, or files that do not say enough.
        CheckpointError: for a file that cannot be read.
        DownloadError: for files that are not here and cannot be fetched.
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
            raise ConfigError(f"tokenizer_mode is {tokenizer_mode!r} and must be 'clips' or None")
        self.clean_fn = get_clean_fn(clean)
        self.files = dict(source) if isinstance(source, Mapping) else find_files(source, cache_dir)
        self.name = str(next(iter(self.files.values())).parent if isinstance(source, Mapping) else source)
        self.settings = settings = read_settings(self.files, options, self.name)
        self.pieces = read_pieces(self.files, settings)
        self.vocab_size = len(self.pieces.vocabulary)
        padding = self.pieces.padding or {}
        self.special_tokens = settings.roles(self.pieces.vocabulary, padding.get("pad_token"))
        self.padding_side = settings.side("padding", str(padding.get("direction", "right")).lower())
        self.truncation_side = settings.side("truncation")
        self.pad_token_id = self._needed_id("pad")
        self.strip_sep_token, self.tokenizer_mode = strip_sep_token, tokenizer_mode or ""
        self._zeroed = self._needed_id("sep") if strip_sep_token else None
        self._template = self._own_template()
        self.language: str | None = None
        if language or self.carries_language:
            stated = settings.options.get("src_lang") or LANGUAGE_KINDS.get(settings.kind)
            self.set_language(language or stated)
        if self.tokenizer_mode == "clips":
            for role in CLIPS_ROLES:
                self._needed(role)
        self.context_length = None if context_length is None else checked_length(context_length, self._around)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {self.vocab_size} ids, rows of {self.context_length}>"

    def __call__(
        self,
        texts: str | Iterable[str],
        context_length: int | None = None,
        *,
        overflow: Literal["truncate", "error"] = "truncate",
    ) -> LongTensor:
        """Tokenize captions for a text tower.

        Args:
            texts: one caption, or N of them.
            context_length: L, where it is not the tokenizer's own.
            overflow: what to do with more than L tokens; "truncate" keeps those that fit, and what stands around them.

        Returns:
            (N, L) int64 on the CPU, padded to L on the side and with the id that the files say.

        Raises:
            TextTypeError: naming the first text that is not a string.
            TextTooLongError: naming the first text that is too long, when `overflow` is "error".
            ConfigError: if L is unknown or too small, or `overflow` is neither of the two.
        """
        import torch

        length = self._length(context_length)
        check_overflow(overflow)
        texts = as_list(texts)
        encoded = self.pieces.encode(list(map(self.clean_fn, texts)))
        if overflow == "error":
            check_fits(texts, _counts(encoded) + self._around, length)
        rows = (self._clips_rows if self.tokenizer_mode == "clips" else self._rows)(encoded, length)
        return torch.from_numpy(rows)  # type: ignore[return-value]

    def _rows(self, encoded: list[list[int]], length: int) -> Ids:
        """Ids of texts to (N, L) rows as the tokenizer's files prescribe."""
        sides = (self.padding_side, self.truncation_side)
        around = self._template.ids()
        rows = pack(_flat(encoded), _counts(encoded), length, *around, self.pad_token_id, *sides)
        if self._zeroed is not None:
            rows[rows == self._zeroed] = 0
        return rows

    def _clips_rows(self, encoded: list[list[int]], length: int) -> Ids:
        """Ids of texts to (N, L) rows of the "clips" mode."""
        start, end, last = (self._needed_id(role) for role in CLIPS_ROLES)
        rows = pack(_flat(encoded), _counts(encoded), length - 1, [start], [end], self.pad_token_id)
        return np.append(rows, np.full((len(rows), 1), last), axis=1)

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without what is put around it, however long."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, without what is put around it, however long."""
        return self.pieces.encode([self.clean_fn(text) for text in as_list(texts)])

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """The text of (L,) ids.

        Raises:
            TokenRangeError: naming the first id outside the vocabulary.
            ShapeError: if this is not one sequence of integers.
        """
        values = one_sequence(ids)
        for place, value in enumerate(values):
            if not 0 <= value < self.vocab_size:
                raise TokenRangeError(
                    f"token id {value} at place {place} is outside the vocabulary, 0 to {self.vocab_size - 1}"
                )
        return self.pieces.decode(values, skip_special_tokens)

    @property
    def carries_language(self) -> bool:
        """Whether rows say which language their captions are in."""
        return self.settings.kind in LANGUAGE_KINDS

    def set_language(self, language: str | None) -> None:
        """Have rows say that their captions are in this language.

        Raises:
            ConfigError: if rows carry no language, or it has no code in the vocabulary.
        """
        kind, vocabulary = self.settings.kind, self.pieces.vocabulary
        if not self.carries_language:
            raise ConfigError(
                f"{self.name} puts no language beside a caption; only NLLB's and mBART's tokenizers do"
            )
        if language not in vocabulary:
            near = nearest(
                str(language), (token for token in vocabulary if "_" in token[1:-1] and len(token) < 9)
            )
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"{language!r} is not a language code of {self.name}{hint}")
        code, end = str(language), self._needed("eos")
        behind = kind == "MBartTokenizer" or bool(self.settings.options.get("legacy_behaviour"))
        before, after = ([], [end, code]) if behind else ([code], [end])
        self._template = Template.of(vocabulary, before, after)
        self.language = code

    def token_id(self, role: str) -> int | None:
        """The id of the special token with a role ("bos", "eos", …), or None if there is none."""
        token = self.special_tokens.get(role)
        return None if token is None else self.pieces.vocabulary.get(token)

    def save_pretrained(self, dest: str | PathLike[str]) -> list[Path]:
        """Write the tokenizer to a folder from which it loads without anything else.

        Its files go there as they are, but that the settings are completed.

        Returns:
            the files written.

        Raises:
            OutputError: if one cannot be written.
        """
        target = Path(dest)
        written = []
        try:
            target.mkdir(parents=True, exist_ok=True)
            for name, path in self.files.items():
                if name == CONFIG:
                    continue
                written.append(target / name)
                if not (written[-1].exists() and written[-1].samefile(path)):
                    shutil.copyfile(path, written[-1])
            config = read_json(self.files[CONFIG]) if CONFIG in self.files else {}
            config |= self.settings.complete(self.special_tokens, self.padding_side)
            config |= {"src_lang": self.language} if self.language else {}
            written.append(target / CONFIG)
            written[-1].write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error}") from error
        return written

    @property
    def _around(self) -> int:
        """How many ids of a row are not the caption's."""
        return len(CLIPS_ROLES) if self.tokenizer_mode == "clips" else sum(map(len, self._template))

    def _length(self, context_length: int | None) -> int:
        if context_length is not None:
            return checked_length(context_length, self._around)
        if self.context_length is None:
            raise ConfigError("this tokenizer has no context length of its own; pass context_length")
        return self.context_length

    def _needed(self, role: str) -> str:
        """The special token with a role, which there has to be."""
        if self.token_id(role) is None:
            raise ConfigError(
                f"{self.name} does not say what its {role}_token is, and a wrong one gives plausible, bad numbers: "
                f"its {CONFIG} should have it, or give {role}_token= among the tokenizer's options"
            )
        return self.special_tokens[role]

    def _needed_id(self, role: str) -> int:
        return self.pieces.vocabulary[self._needed(role)]

    def _own_template(self) -> Template:
        """What the files put around a caption."""
        stated, kind = self.settings.options, self.settings.kind
        template = self.pieces.template
        says = kind in GEMMA_KINDS and ("add_bos_token" in stated or "add_eos_token" in stated)
        if template is not None and not says:
            return template
        bos = [self._needed("bos")] if stated.get("add_bos_token", kind in GEMMA_KINDS) else []
        eos = [self._needed("eos")] if stated.get("add_eos_token", False) else []
        return Template.of(self.pieces.vocabulary, bos, eos)


def _counts(encoded: list[list[int]]) -> Ids:
    return np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))


def _flat(encoded: list[list[int]]) -> Ids:
    return np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
