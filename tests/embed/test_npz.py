"""The .npz format: compatibility with NumPy, and size."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from oneclip.embed.formats.npz import NpzFormat
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.errors import DataError

FACTS = EmbeddingMetadata("m", "w", "s", "fp32", "exact", "images")


def rows_of(names: list[str], width: int = 2) -> EmbeddingRows:
    vectors = np.arange(len(names) * width, dtype=np.float32).reshape(-1, width)
    return EmbeddingRows(names, [f"{i:064x}" for i in range(len(names))], vectors, [None] * len(names))


def test_one_long_name_among_many_costs_neither_disk_nor_memory() -> None:
    names = [f"photos/{i:06}.jpg" for i in range(5_000)]
    names[7] = "x" * 11_200
    rows = rows_of(names, 1024)  # 20 MB of vectors
    file = io.BytesIO()
    tracemalloc.start()
    NpzFormat().write(file, rows, FACTS)
    grown = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert len(file.getvalue()) < 22e6  # it was 245e6
    assert grown < 100e6  # numpy's array of names alone has 224e6
    file.seek(0)
    before = tracemalloc.get_traced_memory()[0]
    assert NpzFormat().read_digests(file, "it")[0] == names
    assert tracemalloc.get_traced_memory()[1] - before < 100e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "names", [[], [""], ["", "ü", "\U0001f408 b"], ["photo \udcff.jpg", "a\0b"], ["x" * 70_000, "y"]]
)
def test_numpy_reads_the_names_that_were_written(names: list[str]) -> None:
    file = io.BytesIO()
    NpzFormat().write(file, rows_of(names), FACTS)
    file.seek(0)
    with np.load(file, allow_pickle=False) as content:
        assert content["names"].tolist() == names
        assert content["names"].dtype.kind == "U"
        np.testing.assert_array_equal(content["vectors"], rows_of(names).vectors)
        assert str(content["decode"]) == "exact"
    file.seek(0)
    rows, metadata = NpzFormat().read(file, "it")
    assert (rows.names, metadata) == (names, FACTS)


def test_an_npz_written_by_numpy_is_read(tmp_path: Path) -> None:
    rows = rows_of(["a.jpg", "b.jpg"])
    metadata = {name: value for name, value in FACTS.to_dict().items() if name != "stored"}
    np.savez(
        tmp_path / "old.npz",
        names=np.array(rows.names),
        sha256=np.array(rows.digests, "S64"),
        vectors=rows.vectors,
        **metadata,
    )
    with (tmp_path / "old.npz").open("rb") as file:
        found, made = NpzFormat().read(file, "it")
    assert (found.names, found.digests, found.stamps, made) == (rows.names, rows.digests, [None, None], FACTS)


@pytest.mark.parametrize("names", [np.arange(2), np.array([["a", "b"]]), np.array(["a", b"b"], object)])
def test_names_that_are_not_a_row_of_strings_are_refused(names: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", names=names, sha256=np.array(["0" * 64] * 2, "S64"), vectors=np.ones((2, 2)))
    with (tmp_path / "v.npz").open("rb") as file, pytest.raises(DataError, match="is damaged or"):
        NpzFormat().read_digests(file, "it")
