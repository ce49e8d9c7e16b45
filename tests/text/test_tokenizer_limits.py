"""Malicious tokenizer files and invalid options are refused fast and with little memory."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import bert, bert_tokenizer, nllb, vocab_txt
from tokenizers import Regex, pre_tokenizers

from oneclip.config import CLIPTextCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.text import CLIPTokenizer, HFTokenizer, get_tokenizer
from oneclip.text.batching.padding import MAX_CONTEXT_LENGTH
from oneclip.text.hf.sentencepiece_model import MAX_PIECE_LENGTH, MAX_SENTINELS, read_model


def number(value: int) -> bytes:
    found = b""
    while value > 127:
        found, value = found + bytes([value & 127 | 128]), value >> 7
    return found + bytes([value])


def field(place: int, content: bytes) -> bytes:
    return number(place << 3 | 2) + number(len(content)) + content


def sentencepiece(path: Path, *pieces: str) -> Path:
    """Write a `.model` with these pieces."""
    written = [field(1, field(1, piece.encode()) + b"\x15" + struct.pack("<f", 0.0)) for piece in pieces]
    path.write_bytes(b"".join(written) + field(2, number(3 << 3) + number(1)) + field(3, b""))
    return path


def t5(folder: Path, **settings: Any) -> Path:
    sentencepiece(folder / "spiece.model", "<pad>", "</s>", "<unk>", "a")
    config = {"tokenizer_class": "T5Tokenizer", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("count", [MAX_SENTINELS + 1, 10**9, -1, "100", [1]])
def test_an_invalid_number_of_sentinels_is_refused(tmp_path: Path, count: Any) -> None:
    assert HFTokenizer(t5(tmp_path, extra_ids=100)).vocab_size == 104
    with pytest.raises(ConfigError, match=r"extra_ids of .* expected a whole number up to 16,384"):
        HFTokenizer(t5(tmp_path, extra_ids=count))


def test_a_piece_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """The time to derive merges grows with the square of the length."""
    fits = sentencepiece(tmp_path / "a.model", "<unk>", "a" * MAX_PIECE_LENGTH)
    assert len(read_model(fits).pieces) == 2
    with pytest.raises(CheckpointError, match=r"has a piece of 257 characters; expected at most 256"):
        read_model(sentencepiece(tmp_path / "a.model", "<unk>", "a" * (MAX_PIECE_LENGTH + 1)))


@pytest.mark.parametrize(("make", "name"), [(bert, "tokenizer.json"), (vocab_txt, "vocab.txt")])
def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, make: Any, name: str) -> None:
    os.truncate(make(tmp_path) / name, 2**30)  # a sparse file
    with pytest.raises(CheckpointError, match=r"1,073,741,824 bytes; expected at most"):
        HFTokenizer(tmp_path)


def test_a_regular_expression_that_backtracks_too_long_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The library panics with an exception that `except Exception` does not catch."""
    tokenizer = bert_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+$"), "isolated")
    tokenizer.save(str(bert(tmp_path) / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="a step in the files of the tokenizer failed"):
        HFTokenizer(tmp_path)(["a" * 60 + "b"])
    capfd.readouterr()  # the panic message


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
def test_a_setting_of_the_wrong_type_is_named(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{name} of .*; expected "):
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
def test_options_of_the_wrong_type_are_refused(kwargs: Any) -> None:
    with pytest.raises(ConfigError):
        get_tokenizer(CLIPTextCfg(tokenizer_kwargs=kwargs))


@pytest.mark.parametrize("kwargs", [*KWARGS[:3], {"cache_dir": "/"}, {"source": "/"}, *KWARGS[-1:]], ids=str)
def test_options_of_the_wrong_type_are_refused_for_a_named_tokenizer(tmp_path: Path, kwargs: Any) -> None:
    with pytest.raises(ConfigError):
        get_tokenizer(CLIPTextCfg(hf_tokenizer_name=str(bert(tmp_path)), tokenizer_kwargs=kwargs))


def test_special_tokens_may_be_a_tuple() -> None:
    assert CLIPTokenizer(additional_special_tokens=("<a>", "<b>")).vocab_size == 49_410


def test_a_mode_of_a_tokenizer_without_modes_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"tokenizer_mode is 'clips', but CLIP's own tokenizer has no modes"
    ):
        get_tokenizer(CLIPTextCfg(tokenizer_mode="clips"))


def test_a_context_length_that_is_too_large_is_refused(tmp_path: Path) -> None:
    for make in (CLIPTokenizer, HFTokenizer(bert(tmp_path)), CLIPTokenizer()):
        arguments = (MAX_CONTEXT_LENGTH + 1,) if isinstance(make, type) else ("a", MAX_CONTEXT_LENGTH + 1)
        with pytest.raises(ConfigError, match="context_length is 1,048,577; expected at most 1,048,576"):
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
def test_chains_of_replacements_that_lengthen_a_text_are_refused(
    tmp_path: Path, step: dict[str, Any]
) -> None:
    bert(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    for count, is_valid in ((3, True), (40, False)):
        content["normalizer"] = {"type": "Sequence", "normalizers": [step] * count}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        if is_valid:
            assert HFTokenizer(tmp_path)("a cat").shape == (1, 77)
        else:
            with pytest.raises(CheckpointError, match="chain of replacements"):
                HFTokenizer(tmp_path)
