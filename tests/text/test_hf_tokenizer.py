"""Tokenizers from Hugging Face files: the same ids as transformers, and nothing is guessed."""

from __future__ import annotations

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import TOKENIZERS, bert, make_all, nllb, siglip, siglip2, t5, vocab_txt, xlm_roberta

from oneclip.errors import (
    CheckpointError,
    ConfigError,
    OutputError,
    TextTooLongError,
    TextTypeError,
    TokenRangeError,
)
from oneclip.text import HFTokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "parity"))

from cases_tokenizer import texts

AWKWARD = [
    *texts(300, seed=11),
    "<s> a photo</s> of <pad>a<mask> dog<unk>",
    "[CLS] a [SEP] [MASK]dog [PAD]",
    "<eos><bos> a photo <pad> x <end_of_turn>",
    "a <mask> b",
    "▁a ▁▁photo",
    "eng_Latn a dog tha_Thai",
    "xylophone Xylophone axylophone",
    "สุนัขสองตัว ขค งจ",
    "a\x00dog\nand\r\na\tcat &amp; &lt;s&gt;",
    "dog " * 300,
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_all(tmp_path_factory.mktemp("tokenizers"))


def transformers_rows(folder: Path, tokenizer: HFTokenizer, length: int, **options: Any) -> list[list[int]]:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder, **options)
    cleaned = [tokenizer.clean_fn(text) for text in AWKWARD]
    rows: list[list[int]] = theirs(cleaned, max_length=length, padding="max_length", truncation=True)[
        "input_ids"
    ]
    return rows


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_equal_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    tokenizer = HFTokenizer(folders[name])
    for length in (8, 64):
        rows = tokenizer(AWKWARD, length).tolist()
        expected = transformers_rows(folders[name], tokenizer, length)
        for text, found, wanted in zip(AWKWARD, rows, expected, strict=True):
            assert found == wanted, repr(text[:80])


@pytest.mark.parametrize("language", ["tha_Thai", "fra_Latn"])
def test_rows_contain_the_given_language(folders: dict[str, Path], language: str) -> None:
    tokenizer = HFTokenizer(folders["nllb"], 12, language=language)
    assert tokenizer(AWKWARD).tolist() == transformers_rows(folders["nllb"], tokenizer, 12, src_lang=language)
    assert tokenizer.backend.vocabulary[language] == int(tokenizer("a dog")[0, 0])


def test_options_replace_the_settings_of_the_files(folders: dict[str, Path]) -> None:
    options = {"padding_side": "left", "truncation_side": "left", "pad_token": "</s>"}
    tokenizer = HFTokenizer(folders["xlm_roberta"], 8, **options)
    assert tokenizer(AWKWARD).tolist() == transformers_rows(folders["xlm_roberta"], tokenizer, 8, **options)


def test_gemma_adds_the_special_tokens_of_its_settings(tmp_path: Path) -> None:
    ids = HFTokenizer(siglip2(tmp_path), 8, add_bos_token=True)("a dog").tolist()[0]
    assert (ids[0], ids[-1], 1 in ids) == (2, 0, True)


# rows


@pytest.mark.parametrize(("make", "pad"), [(siglip, 1), (t5, 0), (siglip2, 0), (bert, 0), (xlm_roberta, 1)])
def test_padding_is_as_in_the_files(tmp_path: Path, make: Any, pad: int) -> None:
    tokenizer = HFTokenizer(make(tmp_path), 64)
    rows = tokenizer(["a dog", "a photo of the dog and the cat"])
    assert rows.shape == (2, 64)
    assert tokenizer.pad_token_id == pad
    assert rows[:, -40:].eq(pad).all()


def test_a_text_that_is_too_long_keeps_its_special_tokens(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(bert(tmp_path), 5)
    cls, sep = tokenizer.token_id("cls"), tokenizer.token_id("sep")
    row = tokenizer("dog dog dog dog dog dog").tolist()[0]
    assert (row[0], row[-1], len(set(row[1:-1]))) == (cls, sep, 1)


def test_a_text_that_is_too_long_is_refused_on_request(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(bert(tmp_path), 5)
    assert tokenizer("dog dog dog", overflow="error").shape == (1, 5)
    with pytest.raises(TextTooLongError, match="text 1 has 6 tokens with start and end, more than the 5"):
        tokenizer(["dog", "dog dog dog dog"], overflow="error")


@pytest.mark.parametrize("length", [0, 1, -3, "8"])
def test_a_row_without_room_is_refused(tmp_path: Path, length: Any) -> None:
    with pytest.raises(ConfigError, match="context_length"):
        HFTokenizer(bert(tmp_path))("a dog", length)


def test_a_missing_context_length_is_an_error(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(bert(tmp_path), None)
    assert tokenizer("a dog", 6).shape == (1, 6)
    with pytest.raises(ConfigError, match="pass context_length"):
        tokenizer("a dog")


def test_no_texts_give_no_rows(tmp_path: Path) -> None:
    assert HFTokenizer(bert(tmp_path), 9)([]).shape == (0, 9)


@pytest.mark.parametrize("texts", [3, None, [b"a"], ["a", 1], b"a"])
def test_an_argument_that_is_not_text_is_refused(tmp_path: Path, texts: Any) -> None:
    with pytest.raises(TextTypeError):
        HFTokenizer(bert(tmp_path))(texts)


def test_encode_and_decode_leave_out_special_tokens(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(siglip(tmp_path))
    ids = tokenizer.encode("a photo of the dog")
    assert tokenizer.decode(ids) == "a photo of the dog"
    row = tokenizer("a photo of the dog")[0]
    assert tokenizer.decode(row, skip_special_tokens=True) == "a photo of the dog"
    with pytest.raises(TokenRangeError, match="token id 100000 at position 0"):
        tokenizer.decode([100_000])


def test_it_may_be_pickled_and_shared_between_threads(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(nllb(tmp_path), 32, language="tha_Thai")
    expected = tokenizer(AWKWARD)
    assert pickle.loads(pickle.dumps(tokenizer))(AWKWARD).equal(expected)
    with ThreadPoolExecutor(4) as pool:
        for rows in pool.map(tokenizer, [AWKWARD] * 8, range(30, 38)):
            assert rows[:, :4].equal(expected[:, :4])


def test_separators_become_zeros_on_request(tmp_path: Path) -> None:
    folder = bert(tmp_path)
    plain, stripped = HFTokenizer(folder, 9)(AWKWARD), HFTokenizer(folder, 9, strip_sep_token=True)(AWKWARD)
    sep = HFTokenizer(folder).token_id("sep")
    assert stripped.equal(plain.masked_fill(plain == sep, 0))


# folders


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_saved_tokenizer_gives_the_same_rows(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    tokenizer = HFTokenizer(folders[name], 20)
    written = tokenizer.save_pretrained(tmp_path / "copy")
    again = HFTokenizer(tmp_path / "copy", 20)
    assert again(AWKWARD).equal(tokenizer(AWKWARD))
    assert {path.parent for path in written} == {tmp_path / "copy"}
    assert transformers_rows(tmp_path / "copy", tokenizer, 20) == tokenizer(AWKWARD).tolist()


def test_a_tokenizer_can_be_saved_to_its_own_folder(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(nllb(tmp_path), 20, language="tha_Thai")
    tokenizer.save_pretrained(tmp_path)
    assert HFTokenizer(tmp_path, 20)(AWKWARD).equal(tokenizer(AWKWARD))


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tokenizer = HFTokenizer(bert(tmp_path / "own"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        tokenizer.save_pretrained(tmp_path / "file")


# unknown settings are not guessed


def test_an_unknown_padding_token_is_an_error(tmp_path: Path) -> None:
    siglip(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="does not define its pad_token"):
        HFTokenizer(tmp_path)
    assert HFTokenizer(tmp_path, pad_token="</s>").pad_token_id == 1


def test_unambiguous_special_tokens_need_no_settings(tmp_path: Path) -> None:
    bert(tmp_path)
    expected = HFTokenizer(tmp_path, 9)(AWKWARD)
    (tmp_path / "tokenizer_config.json").unlink()
    assert HFTokenizer(tmp_path, 9)(AWKWARD).equal(expected)


def test_an_unknown_option_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="'pading_side' is not an option of a tokenizer; did you mean padding_side"
    ):
        HFTokenizer(bert(tmp_path), pading_side="left")
    with pytest.raises(ConfigError, match=r"padding_side of .* expected 'left' or 'right'"):
        HFTokenizer(bert(tmp_path), padding_side="middle")


def test_a_language_is_refused_if_rows_do_not_contain_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="do not contain a language"):
        HFTokenizer(bert(tmp_path), language="eng_Latn")


def test_an_unknown_language_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'tha_Tha' is not a language code .* did you mean tha_Thai"):
        HFTokenizer(nllb(tmp_path), language="tha_Tha")


def test_a_mode_needs_its_special_tokens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not define its bos_token"):
        HFTokenizer(bert(tmp_path), tokenizer_mode="clips")
    with pytest.raises(ConfigError, match="expected 'clips'"):
        HFTokenizer(bert(tmp_path), tokenizer_mode="clip")


def test_a_vocabulary_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    vocab_txt(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "FunnelTokenizer"}')
    with pytest.raises(ConfigError, match="a FunnelTokenizer cannot be built from it"):
        HFTokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has no tokenizer: copy tokenizer\.json and tokenizer_config\.json"
    ):
        HFTokenizer(tmp_path)


# damaged files


BROKEN = [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'{"model": 1}', b'{"pad_token": {"a": 1}}']


@pytest.mark.parametrize("content", BROKEN)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, content: bytes) -> None:
    (bert(tmp_path) / file).write_bytes(content)
    if file == "tokenizer_config.json" and content == b'{"model": 1}':
        assert HFTokenizer(tmp_path)("a dog").shape == (1, 77)  # unknown settings are ignored
        return
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        HFTokenizer(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_truncated_file_is_refused(tmp_path: Path, file: str) -> None:
    path = bert(tmp_path) / file
    content = path.read_bytes()
    for end in range(0, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            HFTokenizer(tmp_path)


def test_invalid_settings_are_refused(tmp_path: Path) -> None:
    config = {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": {"x": {"content": "a"}}}
    (bert(tmp_path) / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not describe a tokenizer"):
        HFTokenizer(tmp_path)
