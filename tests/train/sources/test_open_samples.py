"""Words of a command line to samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from tars import members, write_tar

from oneclip.errors import ConfigError, DataError, OneCLIPError
from oneclip.hub.pairs import Pairs
from oneclip.train.data import (
    DatasetSamples,
    Mixture,
    ShardSamples,
    SyntheticSamples,
    TableSamples,
    open_samples,
)


@pytest.fixture
def folder(pairs: Pairs, tmp_path: Path) -> Path:
    """A folder with a table of ten pictures, `pairs.csv`, and two tars of three samples."""
    rows = [
        "filepath,caption",
        *(f"{name},{text}" for name, text in zip(pairs.pictures, pairs.captions, strict=True)),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", members(3, 3 * n))
    return tmp_path


def test_a_table_finds_its_pictures_beside_it(folder: Path) -> None:
    samples = open_samples(str(folder / "pairs.csv"))
    assert isinstance(samples, TableSamples)
    assert len(samples) == 10


def test_tars_by_pattern_by_name_or_in_a_folder(folder: Path) -> None:
    for word, count in (("*.tar", 6), ("{0..1}.tar", 6), ("1.tar", 3), ("", 6)):
        samples = open_samples(str(folder / word))
        assert isinstance(samples, ShardSamples)
        assert len(samples) == count


def test_the_kind_and_the_field_of_captions_in_tars(tmp_path: Path) -> None:
    files = {name.replace("txt", "json"): content for name, content in members(1).items()}
    write_tar(tmp_path / "a.tar", {**files, "0000.json": b'{"alt": "a cat"}'})
    samples = open_samples(str(tmp_path / "a.tar"), caption_column="json:alt")
    assert samples.read(0).captions == ["a cat"]


def test_synthetic_samples_are_made_from_their_number() -> None:
    samples = open_samples("synthetic:10_000")
    assert isinstance(samples, SyntheticSamples)
    assert len(samples) == 10_000
    assert samples.read(7).captions == SyntheticSamples(8).read(7).captions


def test_parquet_of_paths_is_a_table_and_of_pictures_a_dataset(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    captions = pyarrow.array(["0"])
    parquet.write_table(pyarrow.table({"filepath": ["0.png"], "caption": captions}), folder / "paths.parquet")
    content = pyarrow.array([(folder / "0.png").read_bytes()], pyarrow.binary())
    parquet.write_table(pyarrow.table({"image": content, "caption": captions}), folder / "pictures.parquet")
    assert isinstance(open_samples(str(folder / "paths.parquet")), TableSamples)
    assert isinstance(open_samples(str(folder / "pictures.parquet")), DatasetSamples)


def test_several_with_weights_are_a_mixture(folder: Path) -> None:
    samples = open_samples([f"{folder}/pairs.csv@2", f"{folder}/*.tar@.5"])
    assert isinstance(samples, Mixture)
    assert samples.weights == (2.0, 0.5)
    assert samples.names == (f"{folder}/pairs.csv", f"{folder}/*.tar")


def test_several_without_weights_are_one_after_the_other(folder: Path) -> None:
    samples = open_samples([f"{folder}/pairs.csv", f"{folder}/*.tar"])
    assert len(samples) == 16
    assert samples.read(12).captions == ["caption 2"]


def test_a_name_that_ends_like_a_weight_is_a_name(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members(2)).rename(tmp_path / "a@2")
    with pytest.raises(DataError, match=f"the data {path} is none that is known"):
        open_samples(str(path))


def test_weights_for_some_only_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="give all of them one"):
        open_samples([f"{folder}/pairs.csv@2", f"{folder}/*.tar"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("none.csv", "does not exist"),
        ("pictures.zip", "is none that is known; expected a table"),
        ("empty", "is a folder without any; expected a table"),
        ("synthetic:many", "expected synthetic:COUNT"),
        ("0-{0..3}.tar", "no such file"),
    ],
)
def test_what_is_no_data_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, word: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    Path("empty").mkdir()
    with pytest.raises(OneCLIPError, match=message):
        open_samples(word)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filepath,text\n0.png,a\n", "no column 'caption'"),
        ("filepath,caption\n", "has no rows"),
        ("", "is empty"),
        ("filepath,caption\nnowhere.png,a\n", "1 of 1 pictures"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(folder: Path, content: str, message: str) -> None:
    (folder / "pairs.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_samples(str(folder / "pairs.csv"))
