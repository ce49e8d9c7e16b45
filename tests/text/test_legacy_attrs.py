"""Published attributes of the tokenizers of the two facades."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

import clip.simple_tokenizer
import open_clip.tokenizer
from oneclip.errors import TextError

BOTH = pytest.mark.parametrize(
    "module", [clip.simple_tokenizer, open_clip.tokenizer], ids=["clip", "open_clip"]
)


def test_clip_spells_start_and_end_of_text_as_openai() -> None:
    tokenizer = clip.simple_tokenizer.SimpleTokenizer()
    assert tokenizer.encoder["<|startoftext|>"] == 49_406
    assert tokenizer.encoder["<|endoftext|>"] == 49_407
    assert tokenizer.encode("a <|endoftext|>") == [320, 49_407]


def test_open_clip_spells_start_and_end_of_text_as_published() -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    assert tokenizer.encoder["<start_of_text>"] == 49_406
    assert tokenizer.encoder["<end_of_text>"] == 49_407


@BOTH
def test_tables_exist_and_agree(module: object) -> None:
    tokenizer = module.SimpleTokenizer()  # type: ignore[attr-defined]
    assert len(tokenizer.encoder) == len(tokenizer.decoder) == 49_408
    assert len(tokenizer.bpe_ranks) == 48_894
    assert tokenizer.bpe_ranks[("i", "n")] == 0
    assert tokenizer.decoder[320] == "a</w>"
    assert {tokenizer.byte_decoder[symbol] for symbol in tokenizer.byte_encoder.values()} == set(range(256))


@BOTH
def test_merge_table_is_a_file_in_the_published_format(module: object) -> None:
    path = Path(module.default_bpe())  # type: ignore[attr-defined]
    assert path.name == "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    assert len(lines[1 : 49_152 - 256 - 2 + 1]) == 48_894
    assert lines[1] == "i n"


@BOTH
def test_bpe_merges_byte_symbols(module: object) -> None:
    tokenizer = module.SimpleTokenizer()  # type: ignore[attr-defined]
    assert tokenizer.bpe("hello") == "hello</w>"
    assert tokenizer.bpe("a") == "a</w>"
    assert tokenizer.bpe("zxqv").split(" ")[-1].endswith("</w>")
    assert "zxqv" in tokenizer.cache
    symbols = "".join(tokenizer.byte_encoder[b] for b in "héllo".encode())
    assert [tokenizer.encoder[token] for token in tokenizer.bpe(symbols).split(" ")] == tokenizer.encode(
        "héllo"
    )


@BOTH
def test_bpe_refuses_a_character_that_is_not_a_byte_symbol(module: object) -> None:
    with pytest.raises(TextError, match="'漢' in '漢' is not the symbol of a byte"):
        module.SimpleTokenizer().bpe("漢")  # type: ignore[attr-defined]


@BOTH
def test_bpe_does_not_split_special_tokens(module: object) -> None:
    tokenizer = module.SimpleTokenizer()  # type: ignore[attr-defined]
    start = tokenizer.decoder[49_406]
    assert tokenizer.bpe(start) == start == tokenizer.cache[start]


@BOTH
def test_pairs_are_neighbours(module: object) -> None:
    assert module.get_pairs(("a", "b", "a", "b")) == {("a", "b"), ("b", "a")}  # type: ignore[attr-defined]


def test_open_clip_tokenizer_takes_its_published_arguments() -> None:
    tokenizer = open_clip.tokenizer.SimpleTokenizer(
        open_clip.tokenizer.default_bpe(), ["<x>"], 5, clean="canonicalize", reduction_mask=""
    )
    assert tokenizer(["A, b! c d"]).tolist() == [[49_406, 320, 321, 66 + 256, 49_407]]
    assert tokenizer.all_special_ids == [49_406, 49_407, 49_408]
    assert tokenizer.vocab_size == 49_409


def test_open_clip_functions_use_one_tokenizer() -> None:
    rows = open_clip.tokenizer.tokenize("a photo", 6)
    assert rows.tolist() == [[49_406, 320, 1_125, 49_407, 0, 0]]
    assert open_clip.tokenizer.decode(rows[0, :4]) == "<start_of_text>a photo <end_of_text>"
    assert open_clip.tokenizer.tokenize(["a", "b"]).dtype == torch.long
