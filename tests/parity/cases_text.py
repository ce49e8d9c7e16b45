"""Results of `HFTokenizer` and of the random reduction masks.

Both sides run this file, each with its own package, on the same made tokenizers.
"""

from __future__ import annotations

import random
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from cases_tokenizer import texts

sys.path.append(str(Path(__file__).resolve().parents[1] / "text"))

import tiny_tokenizers

CAPTIONS = [
    *texts(300, seed=7),
    "<s> a photo</s> of <pad>a<mask> dog<unk>",
    "[CLS] a [SEP] [MASK]dog [PAD]",
    "<eos><bos> a photo <pad> x",
    "a <mask> b ▁a ▁▁photo eng_Latn a dog tha_Thai <extra_id_0> <0x41> xylophone",
]
LENGTHS = (8, 64)
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "canonical": ("siglip", {"clean": "canonicalize"}),
    "canonical, of Gemma": ("siglip2", {"clean": "canonicalize"}),
    "lower": ("roberta", {"clean": "lower"}),
    "separators stripped": ("bert", {"strip_sep_token": True}),
    "clips": ("bert", {"tokenizer_mode": "clips", "bos_token": "[unused0]", "eos_token": "[SEP]"}),
    "padded on the left on request": ("xlm_roberta", {"padding_side": "left"}),
    "with a space before": ("roberta", {"add_prefix_space": True}),
}
REDUCTIONS = ("simple", "random", "shuffle", "syntax")


def observe(package: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        folders = tiny_tokenizers.make_all(Path(folder))
        rows = {
            f"{name}, {length}": package.tokenizer.HFTokenizer(str(place), length)(CAPTIONS)
            for name, place in folders.items()
            for length in LENGTHS
        }
        for what, (name, options) in OPTIONS.items():
            tokenizer = package.tokenizer.HFTokenizer(str(folders[name]), context_length=32, **options)
            rows[what] = torch.as_tensor(tokenizer(CAPTIONS))
            rows[f"{what}, one"] = torch.as_tensor(tokenizer("a photo of the dog", context_length=16))
        name, options = OPTIONS["clips"]
        clips = package.tokenizer.HFTokenizer(str(folders[name]), **options)
        rows["clips, already clean"] = clips._clips_tokenize(["a photo", "", "dog " * 40], 16)
        language = package.tokenizer.HFTokenizer(str(folders["nllb"]), 8, language="tha_Thai")(CAPTIONS)
    found = {what: table.int() for what, table in rows.items()}
    return {"rows": found, "language": language.int(), "reduced": reduced(package)}


def reduced(package: Any) -> dict[str, Any]:
    """Return the rows of each reduction, and the next number of each random generator."""
    sys.modules["nltk"] = small_nltk()
    found = {}
    try:
        for name in REDUCTIONS:
            for length in (5, 16):
                tokenizer = package.SimpleTokenizer(context_length=length, reduction_mask=name)
                random.seed(length)
                torch.manual_seed(length)
                rows = tokenizer(list(REDUCED)).int()
                found[f"{name}, {length}"] = (rows, random.random(), torch.rand(1).item())
        function = package.tokenizer.get_reduction_mask_fn("shuffle")
        torch.manual_seed(3)
        encode = package.tokenizer._tokenizer.encode
        found["by itself"] = (function(list(REDUCED), 7, 1, 2, encode_fn=encode).int(), 0.0, 0.0)
    finally:
        del sys.modules["nltk"]
    return found


REDUCED = [text for text in CAPTIONS if text.isprintable()][:120]
REDUCED.append("a photo of the small brown dogs running")


def small_nltk() -> Any:
    """Make a stand-in for nltk, with the same invented tags on both sides."""
    nltk: Any = types.ModuleType("nltk")
    nltk.download = lambda name: True
    nltk.data = types.SimpleNamespace(find=lambda path: path)
    nltk.tokenize = types.SimpleNamespace(word_tokenize=lambda text: text.split() or ["empty"])
    tags = ("NN", "NNS", "JJ", "VBG", "DT", "IN", "RB")
    nltk.pos_tag = lambda words: [(word, tags[sum(map(ord, word)) % len(tags)]) for word in words]
    return nltk
