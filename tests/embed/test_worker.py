"""Units of work and what workers make of them, without a cluster: deaths are errors that nobody catches."""

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_sources import write_tar
from tiny import DIM, write_tiny_model

import oneclip
from oneclip.embed.items import Failure, Found, Item
from oneclip.embed.ray_cluster import _Arrived
from oneclip.embed.ray_workers import Pool, plan_pool
from oneclip.embed.result_collector import Ledger
from oneclip.embed.rows import Facts
from oneclip.embed.run import Outcome
from oneclip.embed.sources import find_sources
from oneclip.embed.store import Store
from oneclip.embed.work_units import Answer, Group, Known, Unit, units_of
from oneclip.embed.worker import Attempts, Task, Worker, meet
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
def task(photos: Path, tmp_path: Path) -> Task:
    model = write_tiny_model(tmp_path / "model.safetensors")
    return Task(partial(oneclip.load, str(model)), "cpu", "exact", 2, 1, 1, str(tmp_path))


def worker(task: Task, attempts: Attempts, known: Known | None = None, facts: Facts | None = None) -> Worker:
    def ask(method: str, *what: object) -> object:
        return getattr(attempts, method)(*what)

    met = meet(task)
    assert isinstance(met, tuple)
    return Worker(task, facts or met[0], lambda: known or Known([]), ask)


# ------------------------------------------------------------------------------------------------------- workers


def test_a_worker_says_the_same_as_the_encoder(task: Task, encoder: oneclip.Encoder) -> None:
    made = worker(task, Attempts())
    (unit,) = units_of(find_sources(["photos"]), 100)
    batch = {"unit": [pickle.dumps(unit)]}
    groups = [pickle.loads(content) for row in made(batch) for content in row["group"]]
    assert [(g.first, len(g.answers), g.is_last) for g in groups] == [
        *((i, 2, False) for i in (0, 2, 4)),
        (6, 0, True),
    ]
    answers = [answer for group in groups for answer in group.answers]
    assert [a.name for a in answers] == [f"photos/{i}.jpg" for i in range(6)]
    vectors = encoder.encode_images([a.name for a in answers])
    np.testing.assert_allclose([a.vector for a in answers], vectors, atol=1e-5)


def test_what_is_done_is_not_done_again(task: Task) -> None:
    (unit,) = units_of(find_sources(["photos"]), 100)
    first = [a for g in worker(task, Attempts()).groups(unit) for a in g.answers]
    known = Known((a.name, str(a.digest), None) for a in first[:4])
    again = [a for g in worker(task, Attempts(), known).groups(unit) for a in g.answers]
    assert [a.vector is None and a.reason is None for a in again] == [True] * 4 + [False] * 2


def test_an_item_that_kills_every_worker_is_found_out_and_the_others_are_done(task: Task) -> None:
    attempts, unit = Attempts(), Unit(0, Deadly())
    deaths = 0
    while True:
        try:
            groups = list(worker(task, attempts).groups(unit))
            break
        except Death:
            deaths += 1
    assert deaths == 3
    assert attempts.deaths() == 3
    answers = {a.name: a for g in groups for a in g.answers}
    assert {name for name, a in answers.items() if a.vector is None} == {"3", "deadly"}
    assert "died, again and again" in str(answers["3"].reason)
    assert [(g.first, len(g.answers)) for g in groups] == [(0, 2), (2, 2), (4, 2), (6, 2), (8, 1), (9, 0)]


def test_a_worker_with_another_model_or_none_says_so_and_does_nothing(task: Task, tmp_path: Path) -> None:
    facts = Facts("m", "0" * 64, "0" * 64, "fp32", "exact", "pictures")
    (group,) = worker(task, Attempts(), facts=facts).groups(Unit(0, []))
    assert "another model than on other machines: weights" in str(group.problem)
    (tmp_path / "model.safetensors").unlink()
    assert "model.safetensors" in str(meet(task))
    dead = Attempts()
    for _ in range(4):
        dead.begin("load")
    (group,) = Worker(task, facts, lambda: Known([]), lambda m, *w: getattr(dead, m)(*w)).groups(Unit(0, []))
    assert "while they loaded the model" in str(group.problem)


def test_a_source_that_cannot_be_read_on_is_told(task: Task) -> None:

    class Broken(Deadly):
        def __iter__(self) -> Iterator[Found]:
            raise DataError("it has an end that is damaged")
            yield

    (group,) = worker(task, Attempts()).groups(Unit(0, Broken()))
    assert "end that is damaged" in str(group.problem)


# --------------------------------------------------------------------------------------------------------- units


def test_lists_are_cut_and_bulky_sources_are_a_unit_each(photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_tar("s.tar", {"1.jpg": b"one"})
    pq.write_table(pa.table({"path": ["photos/0.jpg"], "jpg": [b"one"]}), "t.parquet")
    words = ["photos/0.jpg", "photos/1.jpg", "photos/2.jpg", "s.tar", "photos", "t.parquet"]
    found = list(units_of(find_sources(words), 2))
    assert [unit.number for unit in found] == list(range(len(found)))
    sizes = [len(u.found) if isinstance(u.found, list) else type(u.found).__name__ for u in found]
    assert sizes == [2, 1, "Shard", 2, 2, 2, 1]
    assert find_sources(["t.parquet"], column="jpg")[0].is_bulky
    for unit in found:
        assert pickle.loads(pickle.dumps(unit)).number == unit.number


def test_known_is_exact() -> None:
    rows = [(f"photo \udcff {i}", f"{i:064x}", (i, 5) if i % 2 else None) for i in range(1000)]
    known = Known(rows)
    assert all(known.has(digest) for _, digest, _ in rows)
    assert not known.has(f"{1000:064x}")
    unchanged = [known.is_unchanged(Item(name, bytes), (i, 5)) for i, (name, _, _) in enumerate(rows)]
    assert unchanged == [i % 2 == 1 for i in range(1000)]
    assert not known.is_unchanged(Item(rows[1][0], bytes), (3, 5))
    assert not Known([]).has("b")


def test_answers_that_come_twice_count_once_and_what_is_missing_is_noticed() -> None:
    answer = Answer("a", "a")
    arrived = _Arrived(2)
    groups = [
        Group(0, 0, [answer] * 2),
        Group(0, 0, [answer] * 2),
        Group(0, 2, [answer]),
        Group(0, 3, is_last=True),
    ]
    assert [arrived.is_new(group) for group in groups] == [True, False, True, True]
    assert not arrived.is_new(groups[0])
    with pytest.raises(ClusterError, match="of 1 parts"):
        arrived.check()
    assert arrived.is_new(Group(1, 0, is_last=True))
    arrived.check()


# -------------------------------------------------------------------------------------------------------- ledger


def test_a_ledger_keeps_the_order_of_the_sources_and_drops_what_has_no_vector_any_more(photos: Path) -> None:
    facts = Facts("m", "w", "s", "fp32", "exact", "pictures")
    vector, digest = np.ones(DIM, np.float32), "1" * 64
    with Store("vectors.npz", facts) as store, store.error_table() as errors:
        ledger = Ledger(store, Outcome())
        with ledger.counting(errors):
            ledger.take(Group(1, 0, [Answer("c", "c", digest, vector, is_new=True, is_tried=True)]))
            ledger.take(Group(0, 2, [Answer("b", "b", digest, vector, is_tried=True)]))
            ledger.take(
                Group(0, 0, [Answer("a", "a", digest, vector, is_new=True), Answer("x", None, reason="no")])
            )
            ledger.take(Group(2, 0, [Answer("a", "a", digest, vector, is_new=True)]))
        assert store.finish(ledger.names()) == 3
    assert np.load("vectors.npz")["names"].tolist() == ["a", "b", "c"]
    outcome = ledger.outcome
    assert (outcome.encoded, outcome.repeated, outcome.failed) == (2, 1, 1)
    with Store("vectors.npz", facts) as store, store.error_table() as errors:
        ledger = Ledger(store, Outcome())
        with ledger.counting(errors):
            ledger.take(Group(0, 0, [Answer("a", "a", digest), Answer("b", "b", "2" * 64, reason="broken")]))
        assert store.finish(ledger.names()) == 1
    assert (ledger.outcome.kept, ledger.outcome.failed) == (1, 1)


def test_what_a_source_names_twice_stands_where_it_is_named_first_whichever_comes_first(photos: Path) -> None:
    facts = Facts("m", "w", "s", "fp32", "exact", "pictures")
    twice, other = (Answer(n, n, "1" * 64, np.ones(DIM, np.float32), is_new=True) for n in "ab")
    with Store("vectors.npz", facts) as store, store.error_table() as errors:
        ledger = Ledger(store, Outcome())
        with ledger.counting(errors):
            for group in (Group(1, 0, [twice]), Group(0, 1, [other]), Group(0, 0, [twice])):
                ledger.take(group)
        assert store.finish(ledger.names()) == 2
    assert np.load("vectors.npz")["names"].tolist() == ["a", "b"]


def test_a_model_that_gives_nothing_finite_ends_the_run(photos: Path) -> None:
    spoilt = [Answer(n, n, "1" * 64, reason="not finite", is_tried=True) for n in "ab"]
    ledger = Ledger(Store("v.npz", Facts("m", "w", "s", "fp32", "exact", "pictures")), Outcome())
    with pytest.raises(CheckpointError, match="not finite"):
        ledger.take(Group(0, 0, spoilt))


# ---------------------------------------------------------------------------------------------------------- pool


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        ([{"CPU": 2}], 2, None, Pool(2, 1)),
        ([{"CPU": 2}], None, None, Pool(1, 2)),
        ([{"CPU": 16}, {"CPU": 9}, {}], None, None, Pool(6, 4)),
        ([{"CPU": 16}, {"CPU": 9}], 10, "cpu", Pool(10, 2)),
        ([{"CPU": 2}], 5, None, Pool(5, 1)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 64}], None, None, Pool(4, 4, 1)),
        ([{"CPU": 4, "GPU": 8}], 3, "cuda", Pool(3, 0, 1)),
        ([{"CPU": 16, "GPU": 4}], None, "cpu", Pool(4, 4)),
    ],
)
def test_a_pool_takes_what_there_is(
    nodes: list[dict[str, float]], workers: int | None, device: str | None, expected: Pool
) -> None:
    assert plan_pool(nodes, workers, device) == expected


def test_a_pool_that_is_impossible_says_why() -> None:
    with pytest.raises(ConfigError, match="has no GPU"):
        plan_pool([{"CPU": 2}], None, "cuda")
    with pytest.raises(ConfigError, match="not on 'mps'"):
        plan_pool([{"CPU": 2}], None, "mps")
    with pytest.raises(ClusterError, match="no processor"):
        plan_pool([{}], None, None)
