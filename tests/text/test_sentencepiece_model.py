"""Sentencepiece models that are read as data give the ids of sentencepiece itself."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import GEMMA, WORDS

from oneclip.errors import CheckpointError, ConfigError
from oneclip.text import HFTokenizer
from oneclip.text.hf.siglip import SigLipTokenizer

T5 = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
GEMMA_MODEL = {
    "model_type": "bpe",
    "pad_id": 0,
    "eos_id": 1,
    "bos_id": 2,
    "unk_id": 3,
    "pad_piece": "<pad>",
    "eos_piece": "<eos>",
    "bos_piece": "<bos>",
    "byte_fallback": True,
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "normalization_rule_name": "identity",
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}
T5_SETTINGS = {
    "tokenizer_class": "T5Tokenizer",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "extra_ids": 0,
}
EXTRA = "日本語 漢字 ขคงจ дежзий é ü 12 345 , . !"


def captions(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    words = [
        *WORDS,
        *EXTRA.split(),
        "straße",
        "ﬁne",
        "ｆｕｌｌ",
        "½",
        "😀",
        "한국",
        "don't",
        "A",
        "①",
        "é́"[:1],
    ]
    return [" ".join(rng.choice(words) for _ in range(rng.randint(0, 14))) for _ in range(count)]


def trained(path: Path, **options: Any) -> Any:
    """Train a small model, write it to a file, and return its sentencepiece processor."""
    import sentencepiece

    model = io.BytesIO()
    corpus = [text for text in captions(300, seed=0) if text] + [EXTRA] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        num_threads=1,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 500, **options},
    )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("t5") / "spiece.model"
    processor = trained(path, **T5)
    (path.parent / "tokenizer_config.json").write_text(json.dumps(T5_SETTINGS))
    return path, processor


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("gemma") / "gemma.model"
    processor = trained(path, **GEMMA_MODEL)
    settings = {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", **GEMMA}
    (path.parent / "tokenizer_config.json").write_text(json.dumps(settings))
    return path, processor


def padded(ids: list[int], length: int, end: int, pad: int) -> list[int]:
    return [*ids[: length - 1], end, *[pad] * length][:length]


@pytest.mark.parametrize("clean", ["whitespace", "canonicalize"])
def test_unigram_ids_equal_those_of_sentencepiece(t5: tuple[Path, Any], clean: str) -> None:
    path, processor = t5
    tokenizer = HFTokenizer(path.parent, 12, clean=clean)
    texts = captions(400, seed=1)
    for text, row in zip(texts, tokenizer(texts).tolist(), strict=True):
        assert row == padded(processor.encode(tokenizer.clean_fn(text)), 12, 1, 0), text


@pytest.mark.parametrize("clean", ["whitespace", "canonicalize"])
def test_byte_pair_ids_equal_those_of_sentencepiece(gemma: tuple[Path, Any], clean: str) -> None:
    path, processor = gemma
    tokenizer = HFTokenizer(path.parent, 40, clean=clean)
    texts = captions(400, seed=2)
    for text, row in zip(texts, tokenizer(texts).tolist(), strict=True):
        assert row == padded(processor.encode(tokenizer.clean_fn(text)), 40, 1, 0), text


def test_ids_of_fairseq_models_are_shifted(tmp_path: Path) -> None:
    processor = trained(tmp_path / "sentencepiece.bpe.model", model_type="unigram")
    tokenizer = HFTokenizer(tmp_path, 20)
    unknown = processor.unk_id()
    for text, row in zip(captions(200, seed=3), tokenizer(captions(200, seed=3)).tolist(), strict=True):
        ids = [3 if i == unknown else i + 1 for i in processor.encode(tokenizer.clean_fn(text))]
        assert row == [0, *ids[:18], 2, *[1] * 20][:20], text
    assert tokenizer.token_id("mask") == processor.get_piece_size() + 1


def test_special_tokens_in_a_text_are_not_split(t5: tuple[Path, Any]) -> None:
    path, processor = t5
    dog, cat = processor.encode("a dog"), processor.encode("cat")
    assert HFTokenizer(path.parent).encode("a dog</s>cat<pad>") == [*dog, 1, *cat, 0]


def test_sentinels_follow_the_pieces_in_reverse_order(t5: tuple[Path, Any]) -> None:
    path, processor = t5
    tokenizer = HFTokenizer(path.parent, extra_ids=3)
    assert tokenizer.encode("<extra_id_0>") == [processor.get_piece_size() + 2]
    assert tokenizer.vocab_size == processor.get_piece_size() + 3


def test_a_saved_sentencepiece_tokenizer_gives_the_same_rows(t5: tuple[Path, Any], tmp_path: Path) -> None:
    tokenizer = HFTokenizer(t5[0].parent)
    tokenizer.save_pretrained(tmp_path)
    texts = captions(50, seed=4)
    assert HFTokenizer(tmp_path)(texts).equal(tokenizer(texts))


def test_siglips_vocabulary_is_padded_with_the_end_of_text(t5: tuple[Path, Any]) -> None:
    path, processor = t5
    tokenizer = SigLipTokenizer(path)
    ids = processor.encode("a photo of the dog")
    assert tokenizer("A photo, of the DOG!").tolist() == [padded(ids, 64, 1, 1)]


def test_siglip_2s_vocabulary_is_recognized_by_its_name(gemma: tuple[Path, Any]) -> None:
    path, processor = gemma
    tokenizer = SigLipTokenizer(path, context_length=16)
    ids = processor.encode("a photo of the dog")
    assert tokenizer("A photo, of the DOG!").tolist() == [padded(ids, 16, 1, 0)]


def test_an_unknown_vocabulary_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'c4' is neither a file nor one of c4-en, mc4, gemma"):
        SigLipTokenizer("c4")


def test_a_model_of_an_unknown_kind_is_refused(t5: tuple[Path, Any]) -> None:
    with pytest.raises(ConfigError, match="a LlamaTokenizer cannot be built from it"):
        HFTokenizer({"spiece.model": t5[0]}, tokenizer_class="LlamaTokenizer")


def test_a_truncated_model_is_refused(t5: tuple[Path, Any], tmp_path: Path) -> None:
    content = t5[0].read_bytes()
    damaged = tmp_path / "spiece.model"
    for end in range(0, len(content), max(1, len(content) // 60)):
        damaged.write_bytes(content[:end])
        try:
            HFTokenizer({"spiece.model": damaged}, pad_token="<pad>")
        except (CheckpointError, ConfigError):
            continue
        pytest.fail(f"{end} of {len(content)} bytes were read as a whole model")


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x7f", b"{}" * 50])
def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not a (readable )?sentencepiece model"):
        HFTokenizer(tmp_path)
