"""Tokenizers of files that mean harm, and options that cannot be: refused by name, soon, with little memory."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from made_tokenizers import bert, bert_tokenizer, nllb, vocab_txt
from tokenizers import Regex, pre_tokenizers

from oneclip.config import CLIPTextCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.text import CLIPTokenizer, HFTokenizer, get_tokenizer
from oneclip.text.batching.padding import LONGEST
from oneclip.text.hf.sentencepiece_model import LONGEST_PIECE, MOST_SENTINELS, read_model


def number(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(place: int, content: bytes) -> bytes:
    return number(place << 3 | 2) + number(len(content)) + content


def sentencepiece(path: Path, *pieces: str) -> Path:
    """A `.model` with these pieces, as sentencepiece writes them."""
    written = [field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", 0.0)) for piece in pieces]
    path.write_bytes(b"".join(written) + field(2, number(3 << 3) + number(1)) + field(3, b""))
    return path


def t5(folder: Path, **settings: Any) -> Path:
    sentencepiece(folder / "spiece.model", "<pad>", "</s>", "<unk>", "a")
    config = {"tokenizer_class": "T5Tokenizer", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("count", [MOST_SENTINELS + 1, 10**9, -1, "100", [1]])
def test_sentinels_without_number_are_refused(tmp_path: Path, count: Any) -> None:
    assert HFTokenizer(t5(tmp_path, extra_ids=100)).vocab_size == 104
    with pytest.raises(ConfigError, match=r"extra_ids of .* must be a whole number up to 16,384"):
        HFTokenizer(t5(tmp_path, extra_ids=count))


def test_a_piece_longer_than_any_is_refused(tmp_path: Path) -> None:
    """The merges of a piece take time that grows with its square."""
    fits = sentencepiece(tmp_path / "a.model", "<unk>", "a" * LONGEST_PIECE)
    assert len(read_model(fits).pieces) == 2
    with pytest.raises(CheckpointError, match=r"has a piece of 257 characters"):
        read_model(sentencepiece(tmp_path / "a.model", "<unk>", "a" * (LONGEST_PIECE + 1)))


@pytest.mark.parametrize(("make", "name"), [(bert, "tokenizer.json"), (vocab_txt, "vocab.txt")])
def test_a_file_larger_than_any_is_not_read(tmp_path: Path, make: Any, name: str) -> None:
    os.truncate(make(tmp_path) / name, 2**30)  # takes no room
    with pytest.raises(CheckpointError, match=r"1,073,741,824 bytes, too many for a tokenizer"):
        HFTokenizer(tmp_path)


def test_an_expression_that_does_not_end_is_an_error_like_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library panics, with an exception that `except Exception` does not catch."""
    tokenizer = bert_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer.save(str(bert(tmp_path) / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="cannot be carried out to its end"):
        HFTokenizer(tmp_path)(["a" * 60 + "b"])
    capfd.readouterr()  # what it printed on the way


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_lower_case", "false"),
        ("strip_accents", 1),
        ("add_bos_token", []),
        ("padding_side", ["left"]),
        ("src_lang", {}),
        ("tokenizer_class", [1]),
    ],
)
def test_a_setting_of_another_type_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name} of .* was expected"):
        HFTokenizer(nllb(tmp_path), **{name: value})


KWARGS: list[Any] = [
    [1],
    "lower",
    {"clean": ["lower"]},
    {"reduction_mask": ["simple"]},
    {"additional_special_tokens": 5},
    {"additional_special_tokens": "dog"},
    {"additional_special_tokens": [5]},
    {"context_length": 5},
]


@pytest.mark.parametrize("kwargs", [*KWARGS, {"bpe_path": "/etc/passwd"}], ids=str)
def test_options_of_another_type_are_refused(kwargs: Any) -> None:
    with pytest.raises(ConfigError):
        get_tokenizer(CLIPTextCfg(tokenizer_kwargs=kwargs))


@pytest.mark.parametrize("kwargs", [*KWARGS[:3], {"cache_dir": "/"}, {"source": "/"}, *KWARGS[-1:]], ids=str)
def test_options_of_another_type_are_refused_for_a_named_tokenizer(tmp_path: Path, kwargs: Any) -> None:
    with pytest.raises(ConfigError):
        get_tokenizer(CLIPTextCfg(hf_tokenizer_name=str(bert(tmp_path)), tokenizer_kwargs=kwargs))


def test_a_list_of_special_tokens_may_be_a_tuple_too() -> None:
    assert CLIPTokenizer(additional_special_tokens=("<a>", "<b>")).vocab_size == 49_410


def test_a_mode_of_a_tokenizer_without_modes_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"tokenizer_mode is 'clips', and CLIP's own tokenizer has no modes"
    ):
        get_tokenizer(CLIPTextCfg(tokenizer_mode="clips"))


def test_a_length_beyond_any_caption_is_refused(tmp_path: Path) -> None:
    for make in (CLIPTokenizer, HFTokenizer(bert(tmp_path)), CLIPTokenizer()):
        arguments = (LONGEST + 1,) if isinstance(make, type) else ("a", LONGEST + 1)
        with pytest.raises(ConfigError, match="a context length of 1,048,577 is longer than any caption"):
            make(*arguments)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"},
        {"type": "Replace", "pattern": {"Regex": ""}, "content": "a"},
        {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aaa"}],
        },
    ],
)
def test_replacements_that_make_texts_longer_and_longer_are_refused(
    tmp_path: Path, step: dict[str, Any]
) -> None:
    bert(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    for count, is_sound in ((3, True), (40, False)):
        content["normalizer"] = {"type": "Sequence", "normalizers": [step] * count}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        if is_sound:
            assert HFTokenizer(tmp_path)("a cat").shape == (1, 77)
        else:
            with pytest.raises(CheckpointError, match="replacements follow each other"):
                HFTokenizer(tmp_path)
