"""Search of segments: the scores and the order of float64 arithmetic, without copies of the stored vectors."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from oneclip.engine import kernels
from oneclip.errors import ShapeError
from oneclip.search import scan as scan_module
from oneclip.search.scan import VectorScan
from oneclip.search.segments import Segment, write_segment

DIM = 384


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


class Cloud:
    """Vectors like those of a CLIP: images around one mean, with variances that fall; texts far from them."""

    def __init__(self, seed: int = 0, decay: float = 1.0) -> None:
        self.random = np.random.default_rng(seed)
        self.deviations = np.arange(1, DIM + 1) ** (-decay / 2)
        self.deviations /= np.linalg.norm(self.deviations)
        self.basis = np.linalg.qr(self.random.standard_normal((DIM, DIM)))[0]
        self.mean = self.basis[0]

    def images(self, count: int) -> np.ndarray:
        return unit((self.random.standard_normal((count, DIM)) * self.deviations) @ self.basis + self.mean)

    def texts(self, count: int) -> np.ndarray:
        around = self.random.standard_normal((count, DIM)) * (0.7 * self.deviations + 0.02)
        return unit(around @ self.basis + 0.3 * self.mean + 0.8 * self.basis[1])


@pytest.fixture(scope="module")
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture(scope="module")
def images(cloud: Cloud) -> np.ndarray:
    vectors = cloud.images(12_000)
    vectors[1::20] = unit(vectors[::20] + 0.05 * cloud.images(600))  # bursts
    return vectors


@pytest.fixture(scope="module")
def scan(images: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> VectorScan:
    return scan_of(tmp_path_factory.mktemp("segments"), images, [7000, 4990, 10])


def scan_of(folder: Path, vectors: np.ndarray, sizes: Sequence[int]) -> VectorScan:
    parts = np.split(vectors, np.cumsum(sizes)[:-1])
    return VectorScan([Segment.open(folder / write_segment(folder, part)) for part in parts])


def cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    return queries.astype(np.float64) @ vectors.T.astype(np.float64)


def best(scores: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:k]


def test_approximate_scores_are_near_the_exact_ones(
    scan: VectorScan, images: np.ndarray, cloud: Cloud
) -> None:
    queries = cloud.texts(3)
    exact = cosines(queries, images)
    assert np.abs(scan.scores(queries) - exact).max() < 0.1 * exact.std(axis=1).min()


def test_rescored_rows_have_exact_scores_in_their_order(
    scan: VectorScan, images: np.ndarray, cloud: Cloud
) -> None:
    queries, rows = cloud.texts(2), np.array([11_999, 0, 7000, 6999, 0, 11_990])
    np.testing.assert_allclose(scan.rescore(queries, rows), cosines(queries, images[rows]), atol=1e-6)
    np.testing.assert_allclose(scan.rescore(queries), cosines(queries, images), atol=1e-6)


def test_vectors_are_those_that_were_written(scan: VectorScan, images: np.ndarray) -> None:
    rows = np.array([11_999, 0, 7000, 6999])
    np.testing.assert_allclose(scan.vectors(rows), images[rows], atol=5e-7)


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_the_top_rows_are_those_of_float64(
    scan: VectorScan, images: np.ndarray, cloud: Cloud, kind: str
) -> None:
    queries = cloud.texts(100) if kind == "texts" else unit(images[:6000:60] + 0.2 * cloud.images(100))
    exact = cosines(queries, images)
    for query, row in zip(queries, exact, strict=True):
        found = scan.top(query[None], 10)
        np.testing.assert_array_equal(found.rows, best(row, 10))
        np.testing.assert_allclose(found.scores, row[found.rows], atol=1e-6)
        np.testing.assert_array_equal(found.parts[0], found.scores)


def test_the_top_rows_of_vectors_without_decay_are_those_of_float64(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    vectors, queries = unit(random.standard_normal((6000, DIM))), unit(random.standard_normal((30, DIM)))
    scan = scan_of(tmp_path, vectors, [6000])
    for query, row in zip(queries, cosines(queries, vectors), strict=True):
        np.testing.assert_array_equal(scan.top(query[None], 10).rows, best(row, 10))


def test_the_top_rows_are_those_of_float64_without_torch(
    tmp_path: Path, cloud: Cloud, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # to import it raises
    scan, queries = scan_of(tmp_path, images, [7000, 4990, 10]), cloud.texts(40)
    assert isinstance(scan.blocks(0)[0], np.ndarray)
    for query, row in zip(queries, cosines(queries, images), strict=True):
        np.testing.assert_array_equal(scan.top(query[None], 10).rows, best(row, 10))
    np.testing.assert_allclose(scan.scores(queries[:2]), cosines(queries[:2], images), atol=0.01)


def test_an_image_finds_itself_even_where_all_others_lie_in_other_directions(tmp_path: Path) -> None:
    cloud = Cloud(decay=4.0)
    vectors = cloud.images(6000)
    vectors[77] = unit(0.8 * cloud.basis[-1] + cloud.mean)
    found = scan_of(tmp_path, vectors, [6000]).top(vectors[[77]], 3)
    assert found.rows[0] == 77


def test_a_scan_reads_only_the_dimensions_that_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = Cloud(decay=3.0)
    scan = scan_of(tmp_path, cloud.images(4000), [4000])
    read = []
    multiply = kernels.int8_products

    def counted(codes: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        read.append(codes.numel())
        return multiply(codes, queries)

    monkeypatch.setattr(kernels, "int8_products", counted)
    scan.top(cloud.images(1), 10)
    assert sum(read) < scan.segments[0].codes.size / 2


def test_a_scan_reads_on_if_too_many_rows_may_be_among_the_best(
    scan: VectorScan, images: np.ndarray, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "UNREAD", (0.9, 0.5, 0.0))
    monkeypatch.setattr(scan_module, "FEW", 60)
    monkeypatch.setattr(scan_module, "LEFT", 1000)
    for query in cloud.texts(10):
        np.testing.assert_array_equal(scan.top(query[None], 10).rows, best(cosines(query, images), 10))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_only_rows_of_the_mask_are_found(
    scan: VectorScan, images: np.ndarray, cloud: Cloud, share: float
) -> None:
    mask = np.random.default_rng(5).random(len(images)) < share
    query = cloud.texts(1)
    rows = np.flatnonzero(mask)
    expected = rows[best(cosines(query, images[rows])[0], 10)]
    np.testing.assert_array_equal(scan.top(query, 10, mask=mask).rows, expected)


def standardized(queries: np.ndarray, images: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    exact = cosines(queries, images)
    scores = (exact - exact.mean(axis=1, keepdims=True)) / exact.std(axis=1, keepdims=True)
    return np.asarray(weights) @ scores


@pytest.mark.parametrize("weights", [(1, 1), (2, 0.5), (1, -1), (-1, -3)])
def test_several_queries_add_standardized_scores(
    scan: VectorScan, images: np.ndarray, cloud: Cloud, weights: tuple[float, float]
) -> None:
    queries = np.concatenate([cloud.texts(1), images[[5]]])
    expected = standardized(queries, images, weights)
    found = scan.top(queries, 20, weights=weights)
    np.testing.assert_array_equal(found.rows, best(expected, 20))
    np.testing.assert_allclose(found.scores, expected[found.rows], atol=1e-4)
    np.testing.assert_allclose(found.parts, cosines(queries, images[found.rows]), atol=1e-6)


def test_a_mask_does_not_change_the_scores_of_combined_queries(
    scan: VectorScan, images: np.ndarray, cloud: Cloud
) -> None:
    queries, mask = cloud.texts(2), np.zeros(len(images), bool)
    mask[:5000] = True
    expected = standardized(queries, images, (1, 1))
    found = scan.top(queries, 5, mask=mask)
    np.testing.assert_allclose(found.scores, expected[found.rows], atol=1e-4)


def test_a_single_query_with_a_negative_weight_finds_what_is_least_like_it(
    scan: VectorScan, images: np.ndarray, cloud: Cloud
) -> None:
    query = cloud.texts(1)
    found = scan.top(query, 10, weights=[-2.0])
    np.testing.assert_array_equal(found.rows, best(-cosines(query, images)[0], 10))
    np.testing.assert_allclose(found.scores, -found.parts[0])


def test_all_rows_are_returned_if_there_are_fewer_than_k(tmp_path: Path, cloud: Cloud) -> None:
    vectors, query = cloud.images(7), cloud.texts(1)
    found = scan_of(tmp_path, vectors, [3, 4]).top(query, 100)
    np.testing.assert_array_equal(found.rows, best(cosines(query, vectors)[0], 7))


def test_a_large_k_is_exact(scan: VectorScan, images: np.ndarray, cloud: Cloud) -> None:
    query = cloud.texts(1)
    exact = cosines(query, images)[0]
    found = scan.top(query, 3000)
    assert set(found.rows) == set(best(exact, 3000))
    np.testing.assert_allclose(found.scores, np.sort(exact)[::-1][:3000], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_found_in_an_empty_index(cloud: Cloud, count: int) -> None:
    found = VectorScan([]).top(cloud.texts(count), 10)
    assert (found.rows.shape, found.scores.shape, found.parts.shape) == ((0,), (0,), (count, 0))


def test_copies_are_all_found(tmp_path: Path, cloud: Cloud) -> None:
    vectors = cloud.images(6000)
    copies = np.arange(50, 6000, 2)
    vectors[copies] = vectors[50]
    found = scan_of(tmp_path, vectors, [3000, 3000]).top(vectors[[50]], len(copies))
    assert set(found.rows) == set(copies)


def test_equal_rows_of_one_segment_keep_their_order(tmp_path: Path, cloud: Cloud) -> None:
    vectors = np.repeat(cloud.images(1), 5, axis=0)
    np.testing.assert_array_equal(scan_of(tmp_path, vectors, [5]).top(cloud.texts(1), 3).rows, [0, 1, 2])


def test_log_normalizers_are_nan_where_none_are_stored(tmp_path: Path, cloud: Cloud) -> None:
    names = [
        write_segment(tmp_path, cloud.images(2), np.array([5, 6], np.float32)),
        write_segment(tmp_path, cloud.images(2)),
    ]
    scan = VectorScan([Segment.open(tmp_path / name) for name in names])
    np.testing.assert_array_equal(scan.log_normalizers(np.array([2, 1])), [np.nan, 6])


def test_the_scan_holds_no_copy_of_the_codes(scan: VectorScan, cloud: Cloud) -> None:
    for number, segment in enumerate(scan.segments):
        for block, codes in zip(scan.blocks(number), segment.codes, strict=True):
            assert np.shares_memory(block.numpy(), codes)
    scan.top(cloud.texts(1), 10)
    tracemalloc.start()
    try:
        scan.top(cloud.texts(1), 10)
        assert tracemalloc.get_traced_memory()[1] < sum(segment.codes.nbytes for segment in scan.segments) / 2
    finally:
        tracemalloc.stop()


def test_arrays_that_do_not_fit_are_refused(scan: VectorScan, cloud: Cloud) -> None:
    query = cloud.texts(1)
    for arguments in (
        {"queries": query[:, :5]},
        {"queries": query[0]},
        {"queries": np.full_like(query, np.nan)},
        {"weights": [1, 2]},
        {"weights": [np.nan]},
        {"mask": np.ones(3, bool)},
    ):
        with pytest.raises(ShapeError):
            scan.top(**{"queries": query, "k": 5, **arguments})


def test_segments_of_different_widths_are_refused(tmp_path: Path) -> None:
    segments = [
        Segment.open(tmp_path / write_segment(tmp_path, np.ones((2, dim), np.float32))) for dim in (4, 5)
    ]
    with pytest.raises(ShapeError, match=r"\[4, 5\]"):
        VectorScan(segments)


@pytest.mark.parametrize("supported", [True, False])
def test_int8_products_are_exact_for_small_integers(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    if supported and not kernels.has_int8_products():
        pytest.skip("this torch has no kernel for it")
    monkeypatch.setattr(kernels, "has_int8_products", lambda: supported)
    random = np.random.default_rng(0)
    codes, queries = random.integers(-2, 3, (5000, 64)), random.integers(-1, 2, (3, 64))
    found = kernels.int8_products(torch.from_numpy(codes.astype(np.int8)), torch.from_numpy(queries).float())
    np.testing.assert_array_equal(found.float().numpy(), queries @ codes.T)
