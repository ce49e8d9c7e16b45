"""transformers reads CLIP's tokenizer from the files that we write."""

from pathlib import Path

import pytest

from oneclip.checkpoint.formats.clip_tokenizer import write_clip_tokenizer
from oneclip.text import CLIPTokenizer

TEXTS = [
    "a photo of a cat",
    "Two  DOGS, running!? through the snow…",
    "it's 1234 o'clock & we'll see",
    "naïve café — 日本語 🙂",
    "supercalifragilisticexpialidocious " * 40,
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_clip_tokenizer(path, 77)
    return path


def ours() -> list[list[int]]:
    rows = CLIPTokenizer()(TEXTS).tolist()
    return [row[: row.index(49407) + 1] for row in rows]


def test_the_tokenizers_library_returns_our_ids(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(77)
    assert [tokenizer.encode(text).ids for text in TEXTS] == ours()


@pytest.mark.parametrize("files", ["all", "without tokenizer.json"])
def test_transformers_returns_our_ids(folder: Path, files: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for path in folder.iterdir():
        if files == "all" or path.name != "tokenizer.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    for kind in (transformers.AutoTokenizer, transformers.CLIPTokenizer):
        tokenizer = kind.from_pretrained(tmp_path)
        assert tokenizer(TEXTS, truncation=True)["input_ids"] == ours()
        assert tokenizer.pad_token_id == 49407
        assert tokenizer.model_max_length == 77
