"""CLIP's tokenizer: ids, rows, threads and processes, invalid input, merge tables."""

from __future__ import annotations

import copy
import gzip
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from oneclip.config import CLIPTextCfg
from oneclip.errors import ConfigError, ShapeError, TextTooLongError, TextTypeError, TokenRangeError
from oneclip.text import CLIPTokenizer, clean_text, get_tokenizer
from oneclip.text.clip import bpe_batch
from tests import programs

SOT, EOT = 49_406, 49_407
GOLDEN = json.loads(Path(__file__).with_name("golden_tokens.json").read_text(encoding="ascii"))
TOKENIZER = CLIPTokenizer()

any_text = st.text(max_size=60) | st.text(st.characters(codec="latin-1"), max_size=60)
relaxed = settings(deadline=None)  # the machine may be busy
captions = st.lists(any_text, max_size=8)


def golden_tokenizer(name: str) -> CLIPTokenizer:
    if name == "openai":
        return CLIPTokenizer(special_tokens=("<|startoftext|>", "<|endoftext|>"))
    return CLIPTokenizer(clean=name)


# as published


@pytest.mark.parametrize("name", GOLDEN)
def test_ids_are_the_published_ones(name: str) -> None:
    texts = [text for text, _, _ in GOLDEN[name]]
    assert golden_tokenizer(name).encode_batch(texts) == [ids for _, ids, _ in GOLDEN[name]]


@pytest.mark.parametrize("name", GOLDEN)
def test_decoded_text_is_the_published_one(name: str) -> None:
    tokenizer = golden_tokenizer(name)
    assert [tokenizer.decode(ids) for _, ids, _ in GOLDEN[name]] == [text for _, _, text in GOLDEN[name]]


def test_there_are_many_golden_texts() -> None:
    assert len(GOLDEN["lower"]) >= 300


def test_vocabulary_is_the_published_one() -> None:
    assert (TOKENIZER.vocab_size, TOKENIZER.context_length) == (49_408, 77)
    assert (TOKENIZER.sot_token_id, TOKENIZER.eot_token_id) == (SOT, EOT)


# rows


def test_a_row_is_start_text_end_and_zeros() -> None:
    assert TOKENIZER("a diagram", 6).tolist() == [[SOT, 320, 22_697, EOT, 0, 0]]


def test_rows_are_int64_of_the_context_length() -> None:
    rows = TOKENIZER(["a", "b"])
    assert rows.dtype == torch.int64
    assert rows.shape == (2, 77)


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_truncation_keeps_the_end_last(length: int) -> None:
    assert TOKENIZER("a a a a a", length).tolist() == [[SOT, *[320] * (length - 2), EOT]]


def test_a_text_that_just_fits_is_complete() -> None:
    assert TOKENIZER("a a", 4, overflow="error").tolist() == [[SOT, 320, 320, EOT]]


def test_an_empty_text_is_start_and_end() -> None:
    assert TOKENIZER(["", "a", " \n"], 3).tolist() == [[SOT, EOT, 0], [SOT, 320, EOT], [SOT, EOT, 0]]


def test_no_texts_give_no_rows() -> None:
    assert TOKENIZER([]).shape == (0, 77)
    assert TOKENIZER.encode_batch([]) == []


@pytest.mark.parametrize(
    "texts",
    [
        ("a", "b"),
        iter(["a", "b"]),
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        {"a": 1, "b": 2},
    ],
)
def test_texts_come_in_any_collection(texts: Any) -> None:
    assert TOKENIZER(texts, 3).tolist() == TOKENIZER(["a", "b"], 3).tolist()


def test_rows_can_be_written_to() -> None:
    rows = TOKENIZER(["a"])
    rows[0, 1] = 7
    assert TOKENIZER(["a"])[0, 1] == 320


@relaxed
@given(captions, st.integers(2, 20))
@example(["a\nb", "\n", "a \n b"], 5)
def test_batch_equals_one_by_one(texts: list[str], length: int) -> None:
    assert TOKENIZER(texts, length).tolist() == [TOKENIZER(text, length)[0].tolist() for text in texts]
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


@relaxed
@given(captions, st.integers(2, 20))
def test_rows_hold_what_encode_gives(texts: list[str], length: int) -> None:
    for row, text in zip(TOKENIZER(texts, length).tolist(), texts, strict=True):
        ids = TOKENIZER.encode(text)[: length - 2]
        assert row == [SOT, *ids, EOT] + [0] * (length - 2 - len(ids))


@relaxed
@given(any_text)
def test_cached_words_keep_their_ids(text: str) -> None:
    first = TOKENIZER.encode(text)
    TOKENIZER.vocabulary.encode_texts = bpe_batch.WordCache(TOKENIZER.vocabulary.encode)
    assert first == TOKENIZER.encode(text) == TOKENIZER.encode(text)


@relaxed
@given(any_text)
def test_decoding_returns_the_cleaned_text(text: str) -> None:
    cleaned = clean_text(text).replace("\u0345", "")  # the only character without a token
    assume("</w>" not in cleaned)  # the mark of the end of a word
    assert TOKENIZER.decode(TOKENIZER.encode(text)).replace(" ", "") == cleaned.replace(" ", "")


def test_a_special_token_in_a_text_is_one_token() -> None:
    assert TOKENIZER.encode("a <end_of_text>") == [320, EOT]


def test_additional_special_tokens_follow_the_vocabulary() -> None:
    tokenizer = CLIPTokenizer(additional_special_tokens=["<|mask|>", "<cls>"])
    assert tokenizer.vocab_size == 49_410
    assert tokenizer.all_special_ids == [SOT, EOT, 49_408, 49_409]
    assert tokenizer.encode("a <|mask|> <cls>") == [320, 49_408, 49_409]
    assert tokenizer.decode([49_408, 320]) == "<|mask|>a "
    assert TOKENIZER.vocab_size == 49_408


# memory, threads, processes


def test_the_cache_of_words_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_batch, "MAX_CACHED_WORDS", 50)
    cache = bpe_batch.WordCache(TOKENIZER.vocabulary.encode)
    for start in range(0, 400, 20):
        ids, counts = cache([f"w{i}" for i in range(start, start + 20)])
        assert len(cache._known) <= 50
        assert len(ids) == counts.sum()
    cache([f"w{i}" for i in range(200)])
    assert len(cache._known) <= 50


def test_long_words_are_not_cached() -> None:
    cache = bpe_batch.WordCache(TOKENIZER.vocabulary.encode)
    cache(["x" * 65, "y"])
    assert set(cache._known) == {"y", "\n"}


def test_threads_share_a_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe_batch, "MAX_CACHED_WORDS", 40)  # so that it is cleared often
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.vocabulary = type(TOKENIZER.vocabulary)(None, TOKENIZER.vocabulary.special_tokens)
    batches = [[f"thread {t} caption {i} of {t * i}" for i in range(60)] for t in range(8)]
    expected = [TOKENIZER(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for rows, right in zip(pool.map(tokenizer, batches), expected, strict=True):
                assert torch.equal(rows, right)


def test_a_pickle_is_small_and_shares_the_vocabulary() -> None:
    packed = pickle.dumps(CLIPTokenizer(32, clean="whitespace"))
    assert len(packed) < 1_000
    tokenizer = pickle.loads(packed)
    assert tokenizer.context_length == 32
    assert tokenizer.vocabulary is TOKENIZER.vocabulary
    assert tokenizer.encode("A") == CLIPTokenizer(clean="whitespace").encode("A")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_tokenizes_without_a_warning() -> None:
    program = """
import os
from oneclip.text import CLIPTokenizer
tokenizer = CLIPTokenizer()
rows = tokenizer(["a photo of a cat"] * 2_000)
child = os.fork()
if not child:
    os._exit(0 if (tokenizer(["a photo of a cat"] * 2_000) == rows).all() else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    result = programs.run(["-c", program])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_import_loads_no_torch() -> None:
    program = "import sys, oneclip.text; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


# bad input


@pytest.mark.parametrize("bad", [None, 7, b"a", ["a"], float("nan")])
def test_a_text_that_is_not_a_string_is_named(bad: object) -> None:
    with pytest.raises(TextTypeError, match=f"text 1 is not a string but {type(bad).__name__}"):
        TOKENIZER(["a", bad, 3])  # type: ignore[list-item]


@pytest.mark.parametrize("bad", [None, 7, b"a"])
def test_texts_that_are_not_a_collection_are_refused(bad: Any) -> None:
    with pytest.raises(TextTypeError, match="a text must be a string, not"):
        TOKENIZER(bad)


def test_the_error_for_bytes_names_the_solution() -> None:
    with pytest.raises(TextTypeError, match="decode it first"):
        TOKENIZER(b"a")  # type: ignore[arg-type]


def test_a_text_that_is_too_long_is_named() -> None:
    with pytest.raises(TextTooLongError, match=r"text 1 has 102 tokens .* the 77 that fit: 'b b"):
        TOKENIZER(["a", "b " * 100], overflow="error")


def test_more_texts_that_are_too_long_are_counted() -> None:
    with pytest.raises(RuntimeError, match=r"text 0 \(and 2 others\) has 6 tokens .* the 4 that fit"):
        TOKENIZER(["a b c d"] * 3, 4, overflow="error")


@pytest.mark.parametrize("length", [1, 0, -3, 2.5, "77"])
def test_context_length_below_two_is_refused(length: Any) -> None:
    with pytest.raises(ConfigError, match="context_length must be an integer of at least 2"):
        TOKENIZER("a", length)
    with pytest.raises(ConfigError, match="context_length must be an integer of at least 2"):
        CLIPTokenizer(length)


def test_a_missing_context_length_is_an_error() -> None:
    with pytest.raises(ConfigError, match="pass context_length"):
        CLIPTokenizer(None)("a")
    assert CLIPTokenizer(None)("a", 3).tolist() == [[SOT, 320, EOT]]


def test_unknown_overflow_is_refused() -> None:
    with pytest.raises(ConfigError, match="'truncate' or 'error', not 'wrap'"):
        TOKENIZER("a", overflow="wrap")  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[320, 49_408], [320, -1], torch.tensor([320, 99_999]), np.array([1, -5])])
def test_ids_outside_the_vocabulary_are_named(ids: Any) -> None:
    with pytest.raises(
        TokenRangeError, match=f"token id {ids[1]} at position 1 is outside the vocabulary, 0 to 49407"
    ):
        TOKENIZER.decode(ids)


@pytest.mark.parametrize(
    "ids", [[[320]], torch.zeros(2, 3, dtype=torch.long), torch.tensor(3), [0.5], torch.rand(2)]
)
def test_ids_that_are_not_a_sequence_of_integers_are_refused(ids: Any) -> None:
    with pytest.raises(ShapeError, match="one sequence of integer ids"):
        TOKENIZER.decode(ids)


@pytest.mark.parametrize(
    "ids", [[320, 1_125], (320, 1_125), torch.tensor([320, 1_125]), np.array([320, 1_125])]
)
def test_ids_come_in_any_sequence(ids: Any) -> None:
    assert TOKENIZER.decode(ids) == "a photo "


@pytest.mark.parametrize("token", ["", "two words", "hello", "<start_of_text>"])
def test_invalid_special_tokens_are_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="special token"):
        CLIPTokenizer(additional_special_tokens=[token])


# merge tables


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "merges.gz"
    path.write_bytes(gzip.compress(b"#version\na b\nab c</w>\n"))
    return path


def test_another_merge_table_makes_another_vocabulary(table: Path) -> None:
    tokenizer = CLIPTokenizer(merges=table)
    assert tokenizer.vocab_size == 512 + 2 + 2
    assert tokenizer.encode("abc ab") == [513, 64, 321]
    assert pickle.loads(pickle.dumps(tokenizer)).encode("abc") == [513]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a b\n", "is not a merge table"),
        (b"header\na b c\n", "line 2 .* is not a merge of two symbols"),
        (b"header\nxyz w\n", "use symbols that no earlier merge makes"),
        (b"header\n\xff\xfe\n", "is not a merge table"),
    ],
)
def test_damaged_merge_table_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(gzip.compress(content) if content.startswith(b"header") else content)
    with pytest.raises(ConfigError, match=message):
        CLIPTokenizer(merges=path)


# the tokenizer of a configuration


def test_a_configuration_gives_its_tokenizer() -> None:
    cfg = CLIPTextCfg(context_length=32, tokenizer_kwargs={"clean": "canonicalize"})
    tokenizer = get_tokenizer(cfg)
    assert tokenizer("A, b!").tolist() == CLIPTokenizer(32)("a b").tolist()


def test_unknown_tokenizer_option_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="tokenizer_kwargs has 'strip_sep_token'"):
        get_tokenizer(CLIPTextCfg(tokenizer_kwargs={"strip_sep_token": True}))


def test_unknown_cleaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown text cleaning 'upper'"):
        CLIPTokenizer(clean="upper")
