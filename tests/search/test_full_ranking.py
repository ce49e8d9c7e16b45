"""Rankings of all files: the same results as a search for the best few, in pages."""

import shutil
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from images import write_image

from oneclip.search import Index
from oneclip.search.full_ranking import FullRanking, order_rows
from oneclip.search.query import encode_queries, parse_queries
from oneclip.search.ranking import FileSelection
from oneclip.search.scan import VectorScan
from oneclip.search.segments import Segment, write_segment


@pytest.fixture
def full(index: Index, photos: Path) -> Index:
    """The index, with twelve images of which two have copies and some have dates."""
    for i in range(6, 12):
        write_image(photos / f"{i}.png", i)
    for i in (1, 7):
        shutil.copy2(photos / f"{i}.png", photos / f"copy of {i}.png")
    index.update(photos)
    index.catalogue.rows("UPDATE contents SET taken_at = '2020-0' || (id % 5 + 1) || '-01' WHERE id % 3")
    return index


def rank_all(index: Index, *words: str, where: str | None = None, **options: Any) -> FullRanking:
    queries = parse_queries(words, **options)
    selected = FileSelection(index.catalogue, where).files()
    vectors = encode_queries(index.encoder, queries)
    return FullRanking.of_query(index.snapshot(), selected, queries, vectors, index.relevance)


def paths(index: Index, ranking: FullRanking, places: Any) -> list[str]:
    entries = FileSelection(index.catalogue).entries_of(ranking.files.tolist())
    return [entries[file].path for file in ranking.files[places].tolist()]


@pytest.mark.parametrize("distinct", [False, True])
def test_results_are_those_of_a_search(full: Index, distinct: bool) -> None:
    middle = sorted(hit.relevance or 0.0 for hit in full.search("a cat", top_k=99))[6]
    ranking = rank_all(full, "a cat", exclude="2:snow")
    repeated = ranking.find_repeated(full.snapshot(), full.catalogue) if distinct else None
    sorts: tuple[Literal["relevance", "date"], ...] = ("relevance", "date")
    for sort, limit, top in product(sorts, (None, middle), (1, 3, 9, 14, 99)):
        expected = full.search(
            "a cat", exclude="2:snow", top_k=top, sort=sort, min_relevance=limit, distinct=distinct
        )
        found = ranking.results(top, sort=sort, min_relevance=limit, repeated=repeated)
        assert paths(full, ranking, found.places) == [hit.path for hit in expected]
        assert (found.hidden, found.repeated) == (expected.hidden, expected.repeated)
        assert ranking.searched == expected.searched


def test_scores_and_relevances_are_those_of_a_search(full: Index) -> None:
    expected = full.search("a cat", top_k=99, where="name != 3.png")
    ranking = rank_all(full, "a cat", where="name != 3.png")
    assert ranking.scores is not None
    assert ranking.relevances is not None
    np.testing.assert_allclose(ranking.scores, [hit.score for hit in expected], rtol=1e-5)
    np.testing.assert_allclose(ranking.relevances, [hit.relevance for hit in expected], rtol=1e-4)


def test_without_a_query_the_newest_come_first_and_then_those_without_a_date(full: Index) -> None:
    ranking = FullRanking.by_date(full.snapshot(), FileSelection(full.catalogue).files())
    entries = FileSelection(full.catalogue).entries_of(ranking.files.tolist())
    dates = [entries[file].facts.taken_at or "" for file in ranking.files.tolist()]
    assert len(dates) == 14
    assert dates == sorted(dates, reverse=True)


def test_the_histogram_counts_what_a_cut_at_its_edges_leaves(full: Index) -> None:
    ranking = rank_all(full, "a cat")
    edges, counts = ranking.relevance_histogram()
    left = [len(ranking.results(99, min_relevance=edge).places) for edge in edges[:-1]]
    assert left == np.cumsum(counts[::-1])[::-1].tolist()


def test_an_order_of_all_rows_is_exact_first_and_nearly_exact_after_that(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((3_000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [write_segment(tmp_path, vectors[:2_000]), write_segment(tmp_path, vectors[2_000:])]
    scan = VectorScan([Segment.open(tmp_path / name) for name in names])
    mask = generator.random(3_000) < 0.9
    query = vectors[:1]
    found = order_rows(scan, query, 100, weights=np.ones(1, np.float32), mask=mask)
    assert sorted(found.rows.tolist()) == np.flatnonzero(mask).tolist()
    np.testing.assert_array_equal(found.rows[:100], scan.top(query, 100, mask=mask).rows)
    assert (np.diff(found.scores) <= 0).all()
    exact = vectors[found.rows] @ query[0]
    np.testing.assert_allclose(found.parts[0], exact, atol=0.01)  # int8 steps of 32 dimensions
