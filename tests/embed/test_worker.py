"""Work units, workers and the result collector without a cluster; a death is an uncaught exception."""

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tars import write_tar
from tiny import DIM, write_tiny_model

import oneclip
from oneclip.embed.items import Failure, Found, Item
from oneclip.embed.ray_cluster import _ReceivedResults
from oneclip.embed.ray_workers import WorkerPool, plan_workers
from oneclip.embed.result_collector import ResultCollector
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.embed.work_units import ItemResult, KnownItems, ResultBatch, WorkUnit, split_into_units
from oneclip.embed.worker import AttemptCounter, EmbedWorker, WorkerTask, probe_worker
from oneclip.errors import CheckpointError, ClusterError, ConfigError, DataError


class Death(BaseException):
    """What no worker survives."""


def die() -> bytes:
    raise Death


class Deadly:
    """A source whose item 3 kills whoever reads it, and item 5 cannot be read."""

    name, is_bulky = "deadly", True

    def count(self) -> int | None:
        return None

    def __iter__(self) -> Iterator[Found]:
        for i in range(8):
            yield Item(str(i), partial(Path(f"photos/{i % 6}.jpg").read_bytes) if i != 3 else die)
        yield Failure("deadly", "deadly ends here")


@pytest.fixture
def task(photos: Path, tmp_path: Path) -> WorkerTask:
    model = write_tiny_model(tmp_path / "model.safetensors")
    return WorkerTask(partial(oneclip.load, str(model)), "cpu", "exact", 2, 1, 1, str(tmp_path))


def worker(
    task: WorkerTask,
    attempts: AttemptCounter,
    known: KnownItems | None = None,
    metadata: EmbeddingMetadata | None = None,
) -> EmbedWorker:
    def ask(method: str, *what: object) -> object:
        return getattr(attempts, method)(*what)

    met = probe_worker(task)
    assert isinstance(met, tuple)
    return EmbedWorker(task, metadata or met[0], lambda: known or KnownItems([]), ask)


# ------------------------------------------------------------------------------------------------------- workers


def test_a_worker_returns_the_embeddings_of_the_encoder(task: WorkerTask, encoder: oneclip.Encoder) -> None:
    made = worker(task, AttemptCounter())
    (unit,) = split_into_units(find_sources(["photos"]), 100)
    batch = {"unit": [pickle.dumps(unit)]}
    batches = [pickle.loads(content) for row in made(batch) for content in row["batch"]]
    assert [(g.first, len(g.results), g.is_last) for g in batches] == [
        *((i, 2, False) for i in (0, 2, 4)),
        (6, 0, True),
    ]
    results = [result for batch in batches for result in batch.results]
    assert [a.name for a in results] == [f"photos/{i}.jpg" for i in range(6)]
    vectors = encoder.encode_images([a.name for a in results])
    np.testing.assert_allclose([a.vector for a in results], vectors, atol=1e-5)


def test_known_content_is_not_encoded_again(task: WorkerTask) -> None:
    (unit,) = split_into_units(find_sources(["photos"]), 100)
    first = [a for g in worker(task, AttemptCounter()).encode_unit(unit) for a in g.results]
    known = KnownItems((a.name, str(a.digest), None) for a in first[:4])
    again = [a for g in worker(task, AttemptCounter(), known).encode_unit(unit) for a in g.results]
    assert [a.vector is None and a.reason is None for a in again] == [True] * 4 + [False] * 2


def test_an_item_that_kills_workers_is_identified_and_the_others_are_encoded(task: WorkerTask) -> None:
    attempts, unit = AttemptCounter(), WorkUnit(0, Deadly())
    deaths = 0
    while True:
        try:
            batches = list(worker(task, attempts).encode_unit(unit))
            break
        except Death:
            deaths += 1
    assert deaths == 3
    assert attempts.deaths() == 3
    results = {a.name: a for g in batches for a in g.results}
    assert {name for name, a in results.items() if a.vector is None} == {"3", "deadly"}
    assert "died repeatedly" in str(results["3"].reason)
    assert [(g.first, len(g.results)) for g in batches] == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 1), (9, 0)]


def test_a_worker_with_another_or_no_model_reports_it(task: WorkerTask, tmp_path: Path) -> None:
    metadata = EmbeddingMetadata("m", "0" * 64, "0" * 64, "fp32", "exact", "images")
    (batch,) = worker(task, AttemptCounter(), metadata=metadata).encode_unit(WorkUnit(0, []))
    assert "differs from the model on other machines: weights" in str(batch.problem)
    (tmp_path / "model.safetensors").unlink()
    assert "model.safetensors" in str(probe_worker(task))
    dead = AttemptCounter()
    for _ in range(4):
        dead.begin("load")
    (batch,) = EmbedWorker(
        task, metadata, lambda: KnownItems([]), lambda m, *w: getattr(dead, m)(*w)
    ).encode_unit(WorkUnit(0, []))
    assert "while they loaded the model" in str(batch.problem)


def test_a_source_that_fails_midway_is_reported(task: WorkerTask) -> None:

    class Broken(Deadly):
        def __iter__(self) -> Iterator[Found]:
            raise DataError("it has an end that is damaged")
            yield

    (batch,) = worker(task, AttemptCounter()).encode_unit(WorkUnit(0, Broken()))
    assert "end that is damaged" in str(batch.problem)


# --------------------------------------------------------------------------------------------------------- units


def test_lists_are_cut_and_bulky_sources_are_a_unit_each(photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_tar("s.tar", {"1.jpg": b"one"})
    pq.write_table(pa.table({"path": ["photos/0.jpg"], "jpg": [b"one"]}), "t.parquet")
    words = ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg", "s.tar", "photos", "t.parquet"]
    found = list(split_into_units(find_sources(words), 2))
    assert [unit.number for unit in found] == list(range(len(found)))
    sizes = [len(u.found) if isinstance(u.found, list) else type(u.found).__name__ for u in found]
    assert sizes == [2, 1, "TarSource", 2, 2, 2, 1]
    assert find_sources(["t.parquet"], column="jpg")[0].is_bulky
    for unit in found:
        assert pickle.loads(pickle.dumps(unit)).number == unit.number


def test_known_items_are_exact() -> None:
    rows = [(f"photo \udcff {i}", f"{i:064x}", (i, 5) if i % 2 else None) for i in range(1000)]
    known = KnownItems(rows)
    assert all(known.has(digest) for _, digest, _ in rows)
    assert not known.has(f"{1000:064x}")
    unchanged = [known.is_unchanged(Item(name, bytes), (i, 5)) for i, (name, _, _) in enumerate(rows)]
    assert unchanged == [i % 2 == 1 for i in range(1000)]
    assert not known.is_unchanged(Item(rows[1][0], bytes), (3, 5))
    assert not KnownItems([]).has("b")


def test_repeated_results_count_once_and_missing_ones_are_noticed() -> None:
    result = ItemResult("a", "a")
    arrived = _ReceivedResults(2)
    batches = [
        ResultBatch(0, 0, [result] * 2),
        ResultBatch(0, 0, [result] * 2),
        ResultBatch(0, 2, [result]),
        ResultBatch(0, 3, is_last=True),
    ]
    assert [arrived.is_new(batch) for batch in batches] == [True, False, True, True]
    assert not arrived.is_new(batches[0])
    with pytest.raises(ClusterError, match="of 1 work units"):
        arrived.check()
    assert arrived.is_new(ResultBatch(1, 0, is_last=True))
    arrived.check()


# -------------------------------------------------------------------------------------------------------- collector


def test_the_collector_keeps_the_order_of_sources_and_drops_failed_rows(photos: Path) -> None:
    metadata = EmbeddingMetadata("m", "w", "s", "fp32", "exact", "images")
    vector, digest = np.ones(DIM, np.float32), "1" * 64
    with EmbeddingStore("vectors.npz", metadata) as store, store.error_table() as errors:
        collector = ResultCollector(store, EmbedOutcome())
        with collector.counting(errors):
            collector.add(
                ResultBatch(1, 0, [ItemResult("c", "c", digest, vector, is_new=True, is_tried=True)])
            )
            collector.add(ResultBatch(0, 2, [ItemResult("b", "b", digest, vector, is_tried=True)]))
            collector.add(
                ResultBatch(
                    0,
                    0,
                    [ItemResult("a", "a", digest, vector, is_new=True), ItemResult("x", None, reason="no")],
                )
            )
            collector.add(ResultBatch(2, 0, [ItemResult("a", "a", digest, vector, is_new=True)]))
        assert store.finish(collector.names()) == 3
    assert np.load("vectors.npz")["names"].tolist() == ["a", "b", "c"]
    outcome = collector.outcome
    assert (outcome.encoded, outcome.repeated, outcome.failed) == (2, 1, 1)
    with EmbeddingStore("vectors.npz", metadata) as store, store.error_table() as errors:
        collector = ResultCollector(store, EmbedOutcome())
        with collector.counting(errors):
            collector.add(
                ResultBatch(
                    0, 0, [ItemResult("a", "a", digest), ItemResult("b", "b", "2" * 64, reason="broken")]
                )
            )
        assert store.finish(collector.names()) == 1
    assert (collector.outcome.kept, collector.outcome.failed) == (1, 1)


def test_a_repeated_item_keeps_its_first_position(photos: Path) -> None:
    metadata = EmbeddingMetadata("m", "w", "s", "fp32", "exact", "images")
    twice, other = (ItemResult(n, n, "1" * 64, np.ones(DIM, np.float32), is_new=True) for n in "ab")
    with EmbeddingStore("vectors.npz", metadata) as store, store.error_table() as errors:
        collector = ResultCollector(store, EmbedOutcome())
        with collector.counting(errors):
            for batch in (ResultBatch(1, 0, [twice]), ResultBatch(0, 1, [other]), ResultBatch(0, 0, [twice])):
                collector.add(batch)
        assert store.finish(collector.names()) == 2
    assert np.load("vectors.npz")["names"].tolist() == ["a", "b"]


def test_a_model_without_finite_numbers_ends_the_run(photos: Path) -> None:
    spoilt = [ItemResult(n, n, "1" * 64, reason="not finite", is_tried=True) for n in "ab"]
    collector = ResultCollector(
        EmbeddingStore("v.npz", EmbeddingMetadata("m", "w", "s", "fp32", "exact", "images")), EmbedOutcome()
    )
    with pytest.raises(CheckpointError, match="not finite"):
        collector.add(ResultBatch(0, 0, spoilt))


# ---------------------------------------------------------------------------------------------------------- pool


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        ([{"CPU": 2}], 2, None, WorkerPool(2, 1)),
        ([{"CPU": 2}], None, None, WorkerPool(1, 2)),
        ([{"CPU": 16}, {"CPU": 9}, {}], None, None, WorkerPool(6, 4)),
        ([{"CPU": 16}, {"CPU": 9}], 10, "cpu", WorkerPool(10, 2)),
        ([{"CPU": 2}], 5, None, WorkerPool(5, 1)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], None, None, WorkerPool(4, 4, 1)),
        ([{"CPU": 4, "GPU": 8}], 3, "cuda", WorkerPool(3, 0, 1)),
        ([{"CPU": 16, "GPU": 4}], None, "cpu", WorkerPool(4, 4)),
    ],
)
def test_workers_fill_the_cluster(
    nodes: list[dict[str, float]], workers: int | None, device: str | None, expected: WorkerPool
) -> None:
    assert plan_workers(nodes, workers, device) == expected


def test_an_impossible_worker_pool_is_reported() -> None:
    with pytest.raises(ConfigError, match="has no GPU"):
        plan_workers([{"CPU": 2}], None, "cuda")
    with pytest.raises(ConfigError, match="unknown device 'mps'"):
        plan_workers([{"CPU": 2}], None, "mps")
    with pytest.raises(ClusterError, match="no processor"):
        plan_workers([{}], None, None)
