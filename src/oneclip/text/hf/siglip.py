"""SigLIP's tokenizer with the vocabularies that its authors published.

Loaded models read their tokenizer from a repository (`HFTokenizer`). This class is for imported weights, and for
programs that name these vocabularies.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from oneclip import hub
from oneclip.errors import ConfigError
from oneclip.text.hf.tokenizer import HFTokenizer

VOCAB_FILES = {
    "c4-en": "https://storage.googleapis.com/t5-data/vocabs/cc_en.32000/sentencepiece.model",  # English, 32,000
    "mc4": "https://storage.googleapis.com/t5-data/vocabs/mc4.250000.100extra/sentencepiece.model",  # of mT5
    "gemma": "https://storage.googleapis.com/big_vision/gemma_tokenizer.model",  # of SigLIP 2, 256,000
}
_T5 = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
_GEMMA = {
    "tokenizer_class": "GemmaTokenizer",
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "padding_side": "right",
    "add_bos_token": False,
    "add_eos_token": True,
}


class SigLipTokenizer(HFTokenizer):
    """SigLIP's tokenizer (Zhai et al. 2023; Tschannen et al. 2025): cleaned text in sentencepieces, then end of text.

    Rows are padded to the full length, because these towers were trained to read the padding.

    Args:
        tokenizer_name: "c4-en", "mc4" or "gemma", or the path of a `.model`; a path that contains "gemma" is Gemma's.
        context_length: L; None if each call passes it.
        cache_dir: folder for the downloaded vocabulary; None for the default.

    Raises:
        ConfigError: if the vocabulary is unknown and not a file.
        DownloadError: if it cannot be downloaded.
    """

    VOCAB_FILES = VOCAB_FILES

    def __init__(
        self,
        tokenizer_name: str | os.PathLike[str],
        context_length: int | None = 64,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        name = os.fspath(tokenizer_name)
        if name in VOCAB_FILES:
            folder = Path(cache_dir).expanduser() if cache_dir else hub.cache_folder()
            path = hub.download(VOCAB_FILES[name], folder / f"siglip-{name}")
        elif not (path := Path(name).expanduser()).is_file():
            raise ConfigError(f"{name!r} is neither a file nor one of {', '.join(VOCAB_FILES)}")
        options: dict[str, Any] = _GEMMA if "gemma" in name else _T5
        super().__init__({path.name: path}, context_length, clean="canonicalize", **options)
        self.name = name
