"""Read the settings of a tokenizer from `tokenizer_config.json` and related files: special tokens, sides, options.

Missing settings are defaults of the tokenizer's kind, its `tokenizer_class`. If a repository has no class either, the
kind is derived from the names of its special tokens, if these are unambiguous.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from oneclip.errors import CheckpointError, ConfigError, nearest_names
from oneclip.hub import read_json

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
SETTINGS_FILES = (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS)
TOKENIZER_JSON, VOCAB_TXT, VOCAB_JSON, MERGES = "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"
SENTENCEPIECE_FILES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
MAX_FILE_BYTES = 64 * 2**20  # bytes of a vocabulary file; published files have up to 34 MB

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""Roles of special tokens; the keys in the files are `bos_token` and so on."""

BOOLEAN_OPTIONS = (
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "legacy_behaviour",
)
STRING_OPTIONS = ("padding_side", "truncation_side", "src_lang", "tokenizer_class")
OPTIONS = (
    *(f"{role}_token" for role in ROLES),
    *BOOLEAN_OPTIONS,
    *STRING_OPTIONS,
    "additional_special_tokens",
    "extra_special_tokens",
    "extra_ids",
)
IGNORED_OPTIONS = (
    "use_fast",
    "legacy",
    "trust_remote_code",
    "model_max_length",
    "clean_up_tokenization_spaces",
)
"""Options of other libraries that do not change the ids here."""

_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_FAIRSEQ = {
    "bos": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "cls": "<s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_T5 = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
_GEMMA = {"unk": "<unk>", "bos": "<bos>", "eos": "<eos>", "pad": "<pad>", "mask": "<mask>"}
_CLIP = {"unk": "<|endoftext|>", "bos": "<|startoftext|>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"}

BERT_KINDS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
BYTE_LEVEL_KINDS = ("RobertaTokenizer", "BartTokenizer", "GPT2Tokenizer", "LongformerTokenizer")
GEMMA_KINDS = ("GemmaTokenizer", "Siglip2Tokenizer")
LANGUAGE_KINDS = {"NllbTokenizer": "eng_Latn", "MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX"}
"""Kinds that add a language code to each text, and their default code."""

_KIND_BY_FILE = {
    VOCAB_TXT: "BertTokenizer",
    MERGES: "RobertaTokenizer",
    "spiece.model": "T5Tokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
}
"""Kind of tokenizer for older files without a `tokenizer_class`."""

_DEFAULTS: dict[str, dict[str, str]] = {
    **dict.fromkeys(BERT_KINDS, _BERT),
    **dict.fromkeys(
        ("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "XLMRobertaTokenizer"), _FAIRSEQ
    ),
    **dict.fromkeys(LANGUAGE_KINDS, _FAIRSEQ),
    **dict.fromkeys(("T5Tokenizer", "MT5Tokenizer"), _T5),
    "SiglipTokenizer": {**_T5, "pad": "</s>"},
    **dict.fromkeys(GEMMA_KINDS, _GEMMA),
    "CLIPTokenizer": _CLIP,
}
_UNAMBIGUOUS = (_BERT, {k: v for k, v in _FAIRSEQ.items() if k != "mask"}, _CLIP)
"""Sets of special tokens from which the roles can be derived. T5's are ambiguous: SigLIP pads with another one."""


@dataclass
class TokenizerSettings:
    """Settings of a tokenizer.

    Attributes:
        kind: the class of transformers, without "Fast"; "" if unknown.
        tokens: role to special token, as in the files.
        added: id to token, for tokens that were added to the vocabulary.
        extra: more special tokens.
        options: all other settings.
        source: name of the tokenizer in error messages.
    """

    kind: str = ""
    tokens: dict[str, AddedToken | None] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)
    extra: list[AddedToken] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    source: str = "the tokenizer"

    def roles(self, vocabulary: Container[str], padding: str | None = None) -> dict[str, str]:
        """Map roles to special tokens: from the files, else the defaults of the kind, else derived from the vocabulary.

        Args:
            vocabulary: all tokens; defaults that it does not contain are ignored.
            padding: the padding token in `tokenizer.json`, if any.
        """
        defaults = dict(_DEFAULTS.get(self.kind, {}))
        if not defaults:
            matching = (d for d in _UNAMBIGUOUS if all(token in vocabulary for token in d.values()))
            defaults = dict(next(matching, {}))
            defaults |= {"pad": padding} if padding else {}
        found = {role: token for role, token in defaults.items() if token in vocabulary}
        for role, stated in self.tokens.items():
            if stated is None:
                found.pop(role, None)
            else:
                found[role] = stated.content
        return found

    def side(self, what: str, default: str = "right") -> Any:
        """Return "left" or "right" for "padding" or "truncation"."""
        if what == "padding" and self.kind in GEMMA_KINDS:
            default = "left"
        side = self.options.get(f"{what}_side") or default
        if side not in ("left", "right"):
            raise ConfigError(f"{what}_side of {self.source} is {side!r}; expected 'left' or 'right'")
        return side

    def complete(self, roles: Mapping[str, str], padding_side: str) -> dict[str, Any]:
        """Make the content of a `tokenizer_config.json` that does not rely on defaults."""
        stated = {
            f"{role}_token": _token_dict(self.tokens.get(role)) or token for role, token in roles.items()
        }
        kind = self.kind or "PreTrainedTokenizerFast"
        return self.options | stated | {"tokenizer_class": kind, "padding_side": padding_side}


def read_settings(files: Mapping[str, Path], overrides: Mapping[str, Any], source: str) -> TokenizerSettings:
    """Read the settings files. If two files contain one setting, the newer kind of file is used.

    Args:
        files: name to path; those in `SETTINGS_FILES` are read.
        overrides: options that replace those of the files.
        source: name of the tokenizer in error messages.

    Raises:
        ConfigError: if an option is unknown or its value is invalid.
        CheckpointError: if a file cannot be read.
    """
    for name in overrides:
        if name not in OPTIONS and name not in IGNORED_OPTIONS:
            near = nearest_names(name, OPTIONS)
            hint = f"did you mean {' or '.join(near)}?" if near else f"available: {', '.join(OPTIONS)}"
            raise ConfigError(f"{name!r} is not an option of a tokenizer; {hint}")
    config = read_json(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
    if "added_tokens_decoder" not in config and SPECIAL_TOKENS_MAP in files:
        config |= read_json(files[SPECIAL_TOKENS_MAP])
    config |= {name: value for name, value in overrides.items() if name in OPTIONS}
    for names, kind, expected in (
        (BOOLEAN_OPTIONS, bool, "true or false"),
        (STRING_OPTIONS, str, "a string"),
    ):
        for name in names:
            if config.get(name) is not None and not isinstance(config[name], kind):
                raise ConfigError(f"{name} of {source} is {config[name]!r}; expected {expected}")
    if TOKENIZER_JSON not in files and not config.get("tokenizer_class"):
        config["tokenizer_class"] = next((kind for name, kind in _KIND_BY_FILE.items() if name in files), "")
    try:
        return _settings(config, read_json(files[ADDED_TOKENS]) if ADDED_TOKENS in files else {}, source)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(
            f"{TOKENIZER_CONFIG} of {source} does not describe a tokenizer: {error!r}"
        ) from error


def check_file_size(path: Path) -> None:
    """Raise CheckpointError if a file is larger than that of any tokenizer."""
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(
            f"{path} has {size:,} bytes; expected at most {MAX_FILE_BYTES:,} for a tokenizer"
        )


def _settings(config: dict[str, Any], added: Mapping[str, int], source: str) -> TokenizerSettings:
    tokens = {
        role: _token(config.pop(f"{role}_token"), special=True) for role in ROLES if f"{role}_token" in config
    }
    lists = [config.pop("additional_special_tokens", None), config.pop("extra_special_tokens", None)]
    extra = [
        token for values in lists for token in (values.values() if isinstance(values, dict) else values or [])
    ]
    decoder = {int(i): _token(token) for i, token in config.pop("added_tokens_decoder", {}).items()}
    special = {token.content for token in tokens.values() if token}
    for content, i in added.items():
        is_special = content in special
        decoder.setdefault(i, AddedToken(content, normalized=not is_special, special=is_special))
    return TokenizerSettings(
        kind=str(config.pop("tokenizer_class", None) or "")
        .removesuffix("Fast")
        .replace("PreTrainedTokenizer", ""),
        tokens=tokens,
        added={i: token for i, token in sorted(decoder.items()) if token},
        extra=[token for value in extra if (token := _token(value, special=True))],
        options=config,
        source=source,
    )


def _token(value: Any, special: bool = False) -> AddedToken | None:
    """Convert a token of a settings file: its text, or a dict of its text and how it is matched."""
    if value is None or isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=not special)
    options = {k: v for k, v in value.items() if k in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(value["content"], special=special or bool(value.get("special")), **options)


def _token_dict(token: AddedToken | None) -> dict[str, Any] | None:
    """Return the dict for a settings file, if the token has more options than its text."""
    if token is None or not (token.lstrip or token.rstrip or token.single_word or token.normalized):
        return None
    names = ("content", "single_word", "lstrip", "rstrip", "normalized")
    return {"__type": "AddedToken", **{name: getattr(token, name) for name in names}, "special": True}
