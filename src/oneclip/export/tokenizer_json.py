"""Write a tokenizer as `tokenizer.json`, for Immich and transformers.js, and compare its ids with the model's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers

from oneclip.checkpoint.formats.clip_tokenizer import write_clip_tokenizer
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.hub import read_json
from oneclip.text.clip.tokenizer import CLIPTokenizer
from oneclip.text.hf.tokenizer import HFTokenizer
from oneclip.text.hf.tokenizer_config import TOKENIZER_CONFIG, TOKENIZER_JSON

TEXTS = (
    "a",
    "a photo of a cat",
    "Two Dogs,  on a\tgreen field!",
    "it's 12345 #hashtags (and more)",
    "une photo d'un chat noir sur un canapé",
    "รูปภาพของแมว 猫の写真",
    "a very long description of a picture " * 50,
)

PUNCTUATION = r"[!-/:-@\[-`{-~]"


def write_tokenizer_json(
    encoder: Encoder, folder: Path, target: str, clean: Callable[[str], str] | None = None
) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, and compare the ids of texts with those of the model.

    Args:
        encoder: the model in torch.
        folder: an existing folder.
        target: what the files are for, in messages.
        clean: how the target changes a text before the tokenizer; None if it does not, so that the cleaning of the
            model becomes a part of the file.

    Raises:
        ConfigError: for a tokenizer that cannot be written as `tokenizer.json`, or whose ids then differ.
        OutputError: if a file cannot be written.
    """
    tokenizer: Any = encoder.tokenizer
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.save_pretrained(folder)
    elif isinstance(tokenizer, CLIPTokenizer):
        options = encoder.cfg.text_cfg.tokenizer_kwargs or {}
        write_clip_tokenizer(folder, encoder.context_length, options.get("additional_special_tokens") or ())
    if not (folder / TOKENIZER_JSON).is_file():
        raise ConfigError(
            f"{target} needs a tokenizer.json, and the tokenizer of {encoder.name} has none; use --to onnx"
        )
    written = Tokenizer.from_file(str(folder / TOKENIZER_JSON))
    if clean is None:
        _add_cleaning(written, encoder)
        written.save(str(folder / TOKENIZER_JSON))
    # CLIP was trained on rows padded with 0; the files of transformers state another token.
    pad_id, length = tokenizer.pad_token_id, encoder.context_length
    pad_token = written.id_to_token(pad_id)
    _update_json(folder / TOKENIZER_CONFIG, pad_token=pad_token, model_max_length=length)
    if (folder / "special_tokens_map.json").is_file():
        _update_json(folder / "special_tokens_map.json", pad_token=pad_token)

    written.enable_truncation(length)
    written.enable_padding(length=length, pad_id=pad_id, pad_token=pad_token)
    for text in TEXTS:
        expected = tokenizer.token_ids([text], length)[0]
        if not np.array_equal(expected, written.encode(clean(text) if clean else text).ids):
            raise ConfigError(
                f"{target} would read the text {text[:40]!r} as other tokens than {encoder.name} does: its tokenizer "
                "has a step that tokenizer.json does not; use --to onnx"
            )


def _add_cleaning(written: Tokenizer, encoder: Encoder) -> None:
    """Put the cleaning of the model in front of the other steps; CLIP's own file has that of CLIP."""
    default = "whitespace" if isinstance(encoder.tokenizer, HFTokenizer) else ""
    kind = (encoder.cfg.text_cfg.tokenizer_kwargs or {}).get("clean", default)
    steps: list[normalizers.Normalizer] = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    if kind == "canonicalize":
        removed = [normalizers.Replace("_", " "), normalizers.Replace(Regex(PUNCTUATION), "")]
        steps = [*removed, normalizers.Lowercase(), *steps]
    elif kind == "lower":
        steps += [normalizers.Lowercase()]
    if kind:
        written.normalizer = normalizers.Sequence([*steps, *filter(None, [written.normalizer])])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _update_json(path: Path, **values: Any) -> None:
    write_json(path, read_json(path) | values)
