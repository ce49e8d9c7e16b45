"""Segments: files of vectors that are complete or absent, and whose damage is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oneclip.errors import DataError, OutputError, ShapeError
from oneclip.search import segments
from oneclip.search.segments import Segment, write_segment


def unit_vectors(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Draw correlated unit vectors around a mean, like the embeddings of images."""
    random = np.random.default_rng(seed)
    deviations = np.arange(1, dim + 1) ** -0.7
    basis = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    vectors = (random.standard_normal((rows, dim)) * deviations) @ basis + 2 * basis[0]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def segment_path(tmp_path: Path) -> Path:
    return tmp_path / write_segment(tmp_path, unit_vectors(40, 20), np.arange(40, dtype=np.float32))


@pytest.mark.parametrize("shape", [(1, 8), (2, 100), (300, 64), (1000, 80), (3000, 130)])
def test_vectors_are_read_as_accurately_as_float32(tmp_path: Path, shape: tuple[int, int]) -> None:
    vectors = unit_vectors(*shape)
    segment = Segment.open(tmp_path / write_segment(tmp_path, vectors))
    assert (segment.rows, segment.dim) == shape
    np.testing.assert_allclose(segment.vectors(), vectors, atol=5e-7)


def test_some_rows_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    vectors = unit_vectors(900, 64)
    segment = Segment.open(tmp_path / write_segment(tmp_path, vectors))
    np.testing.assert_allclose(segment.vectors(np.array([7, 3, 899, 3])), vectors[[7, 3, 899, 3]], atol=5e-7)
    np.testing.assert_allclose(segment.vectors(slice(5, 9)), vectors[5:9], atol=5e-7)


@pytest.mark.parametrize("rows", [5, 2000])
def test_products_are_those_of_float64(tmp_path: Path, rows: int) -> None:
    vectors, queries = unit_vectors(rows, 70), unit_vectors(3, 70, seed=1)
    segment = Segment.open(tmp_path / write_segment(tmp_path, vectors))
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_allclose(segment.products(queries), exact, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 2000])
def test_moments_are_mean_and_variance_of_the_products(tmp_path: Path, rows: int) -> None:
    vectors, queries = unit_vectors(rows, 70), unit_vectors(3, 70, seed=1)
    segment = Segment.open(tmp_path / write_segment(tmp_path, vectors))
    exact = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    mean, variance = segment.moments(queries)
    np.testing.assert_allclose(mean, exact.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(variance, exact.var(axis=1), rtol=1e-3, atol=1e-9)


def test_many_rows_are_rotated_by_falling_variance_and_few_are_not(tmp_path: Path) -> None:
    many = Segment.open(tmp_path / write_segment(tmp_path, unit_vectors(400, 64)))
    few = Segment.open(tmp_path / write_segment(tmp_path, unit_vectors(200, 64)))
    assert few.rotation is None
    assert many.rotation is not None
    assert (np.diff(many.variances) <= 1e-9).all()


def test_log_normalizers_are_kept(segment_path: Path, tmp_path: Path) -> None:
    stored = Segment.open(segment_path).log_normalizers
    assert stored is not None
    np.testing.assert_array_equal(stored, np.arange(40))
    assert Segment.open(tmp_path / write_segment(tmp_path, unit_vectors(3, 8))).log_normalizers is None


def test_the_file_is_mapped_and_cannot_be_written_through_it(segment_path: Path) -> None:
    segment = Segment.open(segment_path)
    assert isinstance(segment.codes.base, np.memmap)
    assert np.shares_memory(segment.codes, segment.codes.base)
    with pytest.raises(ValueError, match="read-only"):
        segment.codes[0] = 1


def test_other_tools_read_the_file_as_safetensors(segment_path: Path) -> None:
    from safetensors.numpy import load_file

    np.testing.assert_array_equal(load_file(segment_path)["codes"], Segment.open(segment_path).codes)


def test_each_file_has_a_name_of_its_own(tmp_path: Path) -> None:
    names = {write_segment(tmp_path, unit_vectors(2, 4)) for _ in range(5)}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(names) == 5


def test_nothing_is_left_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(OutputError, match="No space left"):
        write_segment(tmp_path, unit_vectors(2, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((0, 4), np.float32), np.zeros(4, np.float32), np.full((2, 4), np.nan, np.float32)],
    ids=["no rows", "one dimension", "nan"],
)
def test_vectors_that_no_segment_can_have_are_refused(tmp_path: Path, vectors: np.ndarray) -> None:
    with pytest.raises(ShapeError):
        write_segment(tmp_path, vectors)
    assert list(tmp_path.iterdir()) == []


def test_too_many_rows_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_ROWS", 3)
    with pytest.raises(ShapeError, match="1 to 3"):
        write_segment(tmp_path, unit_vectors(4, 4))


def test_log_normalizers_of_another_length_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShapeError, match="log_normalizers"):
        write_segment(tmp_path, unit_vectors(4, 4), np.zeros(3, np.float32))


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_not_opened(segment_path: Path, length: int) -> None:
    content = segment_path.read_bytes()
    segment_path.write_bytes(content[:length])
    with pytest.raises(DataError, match=r"damaged.*oneclip index verify"):
        Segment.open(segment_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.segment .*oneclip index verify"):
        Segment.open(tmp_path / "gone.segment")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"I8"', b'"F9"'),
        (b'"codes"', b'"coats"'),
        (b"[40,20]", b"[20,40]"),
        (b'{"__', b'[["__'),
        (b'"1"', b'"0"'),
    ],
)
def test_a_damaged_header_is_not_opened(segment_path: Path, old: bytes, new: bytes) -> None:
    content = segment_path.read_bytes()
    assert old in content
    segment_path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError, match=r"damaged.*oneclip index verify"):
        Segment.open(segment_path)


def test_a_newer_format_asks_for_an_update(segment_path: Path) -> None:
    content = segment_path.read_bytes()
    segment_path.write_bytes(content.replace(b'"format":"1"', b'"format":"7"', 1))
    with pytest.raises(DataError, match=r"newer version.*update oneclip"):
        Segment.open(segment_path)


def test_an_intact_file_passes_verification(segment_path: Path) -> None:
    Segment.open(segment_path).verify()


def test_one_flipped_bit_anywhere_in_the_numbers_is_found(segment_path: Path) -> None:
    content = segment_path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    for place in np.linspace(begin, len(content) - 1, 20).astype(int):
        damaged = bytearray(content)
        damaged[place] ^= 4
        segment_path.write_bytes(damaged)
        with pytest.raises(DataError, match="content has changed"):
            Segment.open(segment_path).verify()
