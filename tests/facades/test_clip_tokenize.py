"""`clip.tokenize`: rows of ids, and texts that are too long."""

import pytest
import torch

import clip
from clip.simple_tokenizer import SimpleTokenizer
from oneclip.errors import TextTooLongError, TextTypeError

LONG = "one word after another " * 30


def test_texts_become_int64_rows_of_77() -> None:
    tokens = clip.tokenize(["a diagram", "a dog", "a cat"])
    assert tokens.dtype == torch.int64
    assert tokens.shape == (3, 77)
    assert tokens[0].tolist() == [49406, 320, 22697, 49407] + [0] * 73


def test_one_text_is_a_batch_of_one() -> None:
    assert clip.tokenize("a dog").equal(clip.tokenize(["a dog"]))


def test_an_empty_list_gives_no_rows() -> None:
    assert clip.tokenize([]).shape == (0, 77)


def test_a_text_that_is_too_long_is_a_runtime_error_that_names_it() -> None:
    with pytest.raises(RuntimeError, match="one word after another") as raised:
        clip.tokenize(["short", LONG])
    assert isinstance(raised.value, TextTooLongError)


def test_truncation_keeps_the_end_of_the_text() -> None:
    tokens = clip.tokenize(LONG, truncate=True)
    assert tokens.shape == (1, 77)
    assert tokens[0, -1] == 49407


def test_another_context_length_is_taken() -> None:
    assert clip.tokenize("a dog", context_length=5).tolist() == [[49406, 320, 1929, 49407, 0]]
    with pytest.raises(RuntimeError):
        clip.tokenize("a dog", context_length=3)


def test_a_text_that_is_not_a_string_is_named() -> None:
    with pytest.raises(TextTypeError, match="7"):
        clip.tokenize(["a dog", 7])


def test_the_tokenizer_that_programs_import_encodes_and_decodes() -> None:
    tokenizer = SimpleTokenizer()
    assert tokenizer.encode("a dog") == [320, 1929] == clip.clip._tokenizer.encode("a dog")
    assert tokenizer.decode([320, 1929]) == "a dog "
    assert tokenizer.encoder["<|endoftext|>"] == 49407
