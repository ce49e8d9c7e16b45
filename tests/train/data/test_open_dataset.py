"""Opening training data by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tars import members, write_tar

from oneclip.errors import ConfigError, DataError, OneCLIPError
from oneclip.hub.pairs import CaptionPairs
from oneclip.train.data import (
    HFDataset,
    MixtureDataset,
    SyntheticDataset,
    TableDataset,
    WebDataset,
    open_dataset,
)


@pytest.fixture
def folder(pairs: CaptionPairs, tmp_path: Path) -> Path:
    """A folder with a table of ten images, `pairs.csv`, and two tars of three samples."""
    rows = [
        "filepath,caption",
        *(f"{name},{text}" for name, text in zip(pairs.images, pairs.captions, strict=True)),
    ]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    for n in range(2):
        write_tar(tmp_path / f"{n}.tar", members(3, 3 * n))
    return tmp_path


def test_image_paths_are_relative_to_the_table(folder: Path) -> None:
    samples = open_dataset(str(folder / "pairs.csv"))
    assert isinstance(samples, TableDataset)
    assert len(samples) == 10


def test_tars_are_found_by_pattern_by_name_or_in_a_folder(folder: Path) -> None:
    for pattern, count in (("*.tar", 6), ("{0..1}.tar", 6), ("1.tar", 3), ("", 6)):
        samples = open_dataset(str(folder / pattern))
        assert isinstance(samples, WebDataset)
        assert len(samples) == count


def test_captions_in_tars_are_read_from_a_json_field(tmp_path: Path) -> None:
    files = {name.replace("txt", "json"): content for name, content in members(1).items()}
    write_tar(tmp_path / "a.tar", {**files, "0000.json": b'{"alt": "a cat"}'})
    samples = open_dataset(str(tmp_path / "a.tar"), caption_column="json:alt")
    assert samples.read(0).captions == ["a cat"]


def test_synthetic_samples_depend_on_their_number_only() -> None:
    samples = open_dataset("synthetic:10_000")
    assert isinstance(samples, SyntheticDataset)
    assert len(samples) == 10_000
    assert samples.read(7).captions == SyntheticDataset(8).read(7).captions


def test_parquet_with_paths_is_a_table_and_with_image_bytes_a_dataset(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    captions = pyarrow.array(["0"])
    parquet.write_table(pyarrow.table({"filepath": ["0.png"], "caption": captions}), folder / "paths.parquet")
    content = pyarrow.array([(folder / "0.png").read_bytes()], pyarrow.binary())
    parquet.write_table(pyarrow.table({"image": content, "caption": captions}), folder / "images.parquet")
    assert isinstance(open_dataset(str(folder / "paths.parquet")), TableDataset)
    assert isinstance(open_dataset(str(folder / "images.parquet")), HFDataset)


def test_sources_with_weights_are_a_mixture(folder: Path) -> None:
    samples = open_dataset([f"{folder}/pairs.csv@2", f"{folder}/*.tar@.5"])
    assert isinstance(samples, MixtureDataset)
    assert samples.weights == (2.0, 0.5)
    assert samples.names == (f"{folder}/pairs.csv", f"{folder}/*.tar")


def test_several_sources_without_weights_are_concatenated(folder: Path) -> None:
    samples = open_dataset([f"{folder}/pairs.csv", f"{folder}/*.tar"])
    assert len(samples) == 16
    assert samples.read(12).captions == ["caption 2"]


def test_a_file_name_that_ends_like_a_weight_has_no_weight(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", members(2)).rename(tmp_path / "a@2")
    with pytest.raises(DataError, match=f"{path} has an unknown format"):
        open_dataset(str(path))


def test_weights_for_only_some_sources_raise(folder: Path) -> None:
    with pytest.raises(ConfigError, match="give every source a weight, or none"):
        open_dataset([f"{folder}/pairs.csv@2", f"{folder}/*.tar"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.csv", "not found|does not exist"),
        ("images.zip", "has an unknown format; expected a table"),
        ("empty", "is a folder without training data; expected a table"),
        ("synthetic:many", "expected synthetic:COUNT"),
        ("0-{0..3}.tar", "no such file"),
    ],
)
def test_sources_that_cannot_be_opened_raise(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    Path("empty").mkdir()
    with pytest.raises(OneCLIPError, match=message):
        open_dataset(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filepath,text\n0.png,a\n", "no column 'caption'"),
        ("filepath,caption\n", "has no rows"),
        ("", "is empty"),
        ("filepath,caption\nnowhere.png,a\n", "1 of 1 images"),
    ],
)
def test_tables_that_cannot_be_used_raise(folder: Path, content: str, message: str) -> None:
    (folder / "pairs.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        open_dataset(str(folder / "pairs.csv"))
