"""`tokenizer_config.json` and what lies beside it to the settings of a tokenizer: special tokens, sides, options.

What a repository leaves out is a default of the tokenizer's kind, its `tokenizer_class`. Some repositories say
neither; their kind shows in the names of their special tokens, where these leave no doubt.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from oneclip.errors import CheckpointError, ConfigError, nearest
from oneclip.hub import read_json

CONFIG, SPECIAL_MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
SETTINGS_FILES = (CONFIG, SPECIAL_MAP, ADDED)
JSON, VOCAB_TXT, VOCAB_JSON, MERGES = "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"
MODELS = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
LARGEST_FILE = 64 * 2**20  # bytes of a vocabulary; published ones have up to 34 MB

ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
"""What special tokens are for; the keys in the files are `bos_token` and so on."""

OPTIONS = (
    *(f"{role}_token" for role in ROLES),
    "padding_side",
    "truncation_side",
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "src_lang",
    "legacy_behaviour",
    "additional_special_tokens",
    "extra_special_tokens",
    "tokenizer_class",
    "extra_ids",
)
SWITCHES = (
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "add_bos_token",
    "add_eos_token",
    "legacy_behaviour",
)
NAMES = ("padding_side", "truncation_side", "src_lang", "tokenizer_class")
WITHOUT_EFFECT = (
    "use_fast",
    "legacy",
    "trust_remote_code",
    "model_max_length",
    "clean_up_tokenization_spaces",
)
"""Options of other libraries' loading, which change nothing about the ids here."""

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
"""Kinds whose captions carry the code of their language, and the code when none is named."""

_KIND_BY_FILE = {
    VOCAB_TXT: "BertTokenizer",
    MERGES: "RobertaTokenizer",
    "spiece.model": "T5Tokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
}
"""What an older file was written for, where nothing else says so."""

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
_UNMISTAKABLE = (_BERT, {k: v for k, v in _FAIRSEQ.items() if k != "mask"}, _CLIP)
"""Special tokens that tell what each is for when nothing says so. T5's do not: SigLIP pads with another of them."""


@dataclass
class Settings:
    """What the files beside a vocabulary say.

    Attributes:
        kind: the class of transformers that the tokenizer was written for, without "Fast"; "" if none is named.
        tokens: role to special token, as stated.
        added: id to token: those that were added to the vocabulary.
        extra: further special tokens.
        options: everything else.
        source: what to call all this in messages.
    """

    kind: str = ""
    tokens: dict[str, AddedToken | None] = field(default_factory=dict)
    added: dict[int, AddedToken] = field(default_factory=dict)
    extra: list[AddedToken] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    source: str = "the tokenizer"

    def roles(self, vocabulary: Container[str], padding: str | None = None) -> dict[str, str]:
        """Role to special token: what is stated, else the kind's default, else what the vocabulary shows.

        Args:
            vocabulary: all tokens; a default that is not among them is no token.
            padding: what `tokenizer.json` pads with, if it says so.
        """
        defaults = dict(_DEFAULTS.get(self.kind, {}))
        if not defaults:
            shown = (d for d in _UNMISTAKABLE if all(token in vocabulary for token in d.values()))
            defaults = dict(next(shown, {}))
            defaults |= {"pad": padding} if padding else {}
        found = {role: token for role, token in defaults.items() if token in vocabulary}
        for role, stated in self.tokens.items():
            if stated is None:
                found.pop(role, None)
            else:
                found[role] = stated.content
        return found

    def side(self, what: str, default: str = "right") -> Any:
        """ "left" or "right": of "padding" or "truncation"."""
        if what == "padding" and self.kind in GEMMA_KINDS:
            default = "left"
        side = self.options.get(f"{what}_side") or default
        if side not in ("left", "right"):
            raise ConfigError(f"{what}_side of {self.source} is {side!r} and must be 'left' or 'right'")
        return side

    def complete(self, roles: Mapping[str, str], padding_side: str) -> dict[str, Any]:
        """What a `tokenizer_config.json` says that leaves nothing to defaults."""
        stated = {f"{role}_token": _plain(self.tokens.get(role)) or token for role, token in roles.items()}
        kind = self.kind or "PreTrainedTokenizerFast"
        return self.options | stated | {"tokenizer_class": kind, "padding_side": padding_side}


def read_settings(files: Mapping[str, Path], overrides: Mapping[str, Any], source: str) -> Settings:
    """Read the files; of two that speak of one thing, the newer kind of file is believed.

    Args:
        files: name to path; those of `SETTINGS_FILES` are read.
        overrides: options that come before what the files say.
        source: what to call the tokenizer in messages.

    Raises:
        ConfigError: for an override that is no option, and a value that its option cannot have.
        CheckpointError: for a file that cannot be read.
    """
    for name in overrides:
        if name not in OPTIONS and name not in WITHOUT_EFFECT:
            near = nearest(name, OPTIONS)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(OPTIONS)}"
            raise ConfigError(f"{name!r} is not an option of a tokenizer; {hint}")
    config = read_json(files[CONFIG]) if CONFIG in files else {}
    if "added_tokens_decoder" not in config and SPECIAL_MAP in files:
        config |= read_json(files[SPECIAL_MAP])
    config |= {name: value for name, value in overrides.items() if name in OPTIONS}
    for names, kind, expected in ((SWITCHES, bool, "true or false"), (NAMES, str, "a word")):
        for name in names:
            if config.get(name) is not None and not isinstance(config[name], kind):
                raise ConfigError(f"{name} of {source} is {config[name]!r}; {expected} was expected")
    if JSON not in files and not config.get("tokenizer_class"):
        config["tokenizer_class"] = next((kind for name, kind in _KIND_BY_FILE.items() if name in files), "")
    try:
        return _settings(config, read_json(files[ADDED]) if ADDED in files else {}, source)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{CONFIG} of {source} describes no tokenizer: {error!r}") from error


def check_file_size(path: Path) -> None:
    """Raise CheckpointError for a file of a vocabulary, or of all of a tokenizer, that no tokenizer needs."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise CheckpointError(
            f"{path} has {size:,} bytes, too many for a tokenizer; {LARGEST_FILE:,} are read"
        )


def _settings(config: dict[str, Any], added: Mapping[str, int], source: str) -> Settings:
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
    return Settings(
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
    """A token as the files have it: its text, or a dict of its text and how it is found in a caption."""
    if value is None or isinstance(value, AddedToken):
        return value
    if isinstance(value, str):
        return AddedToken(value, special=special, normalized=not special)
    options = {k: v for k, v in value.items() if k in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(value["content"], special=special or bool(value.get("special")), **options)


def _plain(token: AddedToken | None) -> dict[str, Any] | None:
    """A token as the files have it, where there is more to say than its text."""
    if token is None or not (token.lstrip or token.rstrip or token.single_word or token.normalized):
        return None
    names = ("content", "single_word", "lstrip", "rstrip", "normalized")
    return {"__type": "AddedToken", **{name: getattr(token, name) for name in names}, "special": True}
