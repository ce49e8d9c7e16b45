"""Threads that search an index while it is updated."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from images import write_image

from oneclip import Encoder
from oneclip.search import Index, SearchResults

THREADS = 8


def facts(results: SearchResults) -> list[tuple[str, float]]:
    return [(hit.path, hit.relevance or 0.0) for hit in results]


def is_same(found: list[tuple[str, float]], state: list[tuple[str, float]]) -> bool:
    return [path for path, _ in found] == [path for path, _ in state] and all(
        abs(one - other) < 1e-4 for (_, one), (_, other) in zip(found, state, strict=True)
    )


@pytest.mark.parametrize("connection", ["of the searches", "of its own"])
@pytest.mark.parametrize("change", ["new images", "fewer images"])
def test_an_answer_is_that_of_before_or_of_after_an_update(
    index: Index, photos: Path, encoder: Encoder, connection: str, change: str
) -> None:
    index.update(photos)
    updated = index if connection == "of the searches" else Index(index.path, model=encoder)
    before = facts(index.search("a cat", top_k=99, where="width > 0"))
    for i in range(6, 16):
        if change == "new images":
            write_image(photos / f"{i}.png", i)
        elif i > 12:
            (photos / f"{i - 13}.png").unlink()
    is_done = threading.Event()
    started = threading.Barrier(THREADS + 1)

    def search() -> list[list[tuple[str, float]]]:
        found = [facts(index.search("a cat", top_k=99, where="width > 0"))]
        started.wait()
        while not is_done.is_set():
            found.append(facts(index.search("a cat", top_k=99, where="width > 0")))
        return [*found, facts(index.search("a cat", top_k=99, where="width > 0"))]

    with ThreadPoolExecutor(THREADS) as pool:
        searches = [pool.submit(search) for _ in range(THREADS)]
        started.wait()
        try:
            updated.update()
        finally:
            is_done.set()
    after = facts(index.search("a cat", top_k=99, where="width > 0"))
    assert len(after) == (16 if change == "new images" else 3)
    for answers in (one.result() for one in searches):
        assert is_same(answers[0], before)
        assert is_same(answers[-1], after)
        assert all(is_same(found, before) or is_same(found, after) for found in answers)


def test_a_search_that_an_update_overtakes_is_repeated(
    index: Index, photos: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.update(photos)
    snapshot, overtaken = index.snapshot(), [True]

    def open_before_an_update() -> object:
        if overtaken:
            overtaken.clear()
            for i in range(4):
                (photos / f"{i}.png").unlink()
            Index(index.path, model=encoder).update()
            return snapshot
        return Index.snapshot(index)

    monkeypatch.setattr(index, "snapshot", open_before_an_update)
    found = index.search("a cat")
    assert (len(found), found.searched) == (2, 2)
