"""The order of a training: all of each epoch, shuffled, by seed, and the same on any number of processes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneclip.errors import ConfigError
from oneclip.train.data.permutation import Permutation
from oneclip.train.data.sampler import PERIOD, Order, Part


def order(size: int, batch_size: int, *, run: int = 1, seed: int = 0) -> Order:
    return Order([Part("the data", 0, size, run)], batch_size, seed)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 1 << 70))
def test_a_permutation_has_every_number_once(size: int, key: int) -> None:
    assert sorted(Permutation(size, (key,))(np.arange(size)).tolist()) == list(range(size))


def test_any_number_comes_first_equally_often() -> None:
    firsts = Counter(int(Permutation(10, (seed,))(np.array([0]))[0]) for seed in range(5000))
    chi_squared = sum((firsts[number] - 500) ** 2 / 500 for number in range(10))
    assert chi_squared < 27.9  # 0.999 of the distribution with 9 degrees of freedom


def test_neighbours_do_not_stay_together() -> None:
    numbers = Permutation(100_000, (0, 1))(np.arange(100_000))
    steps = np.abs(np.diff(numbers))
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02
    assert abs(steps.mean() - 100_000 / 3) < 500  # of two random numbers


def test_a_place_of_a_trillion_samples_costs_no_memory() -> None:
    picks = order(10**12, 32_768).take(5 * 10**12, 5 * 10**12 + 32_768)
    assert len(set(picks.numbers.tolist())) == 32_768
    assert set(picks.epochs.tolist()) == {5}
    assert picks.numbers.min() >= 0
    assert picks.numbers.max() < 10**12


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_each_epoch_has_each_sample_once(size: int, batch_size: int, run: int, epoch: int) -> None:
    made = order(size, min(batch_size, size), run=run)
    picks = made.take(epoch * size, (epoch + 1) * size)
    assert sorted(picks.numbers.tolist()) == list(range(size))
    assert set(picks.epochs.tolist()) == {epoch}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(0, 60), st.integers(1, 9), st.integers(0, 3))
def test_no_batch_has_a_sample_twice_where_epochs_meet(
    batch_size: int, more: int, run: int, seed: int
) -> None:
    size = 2 * batch_size + more
    made = order(size, batch_size, run=run, seed=seed)
    for step in range(6 * size // batch_size):
        numbers = made.take(step * batch_size, (step + 1) * batch_size).numbers.tolist()
        assert len(set(numbers)) == batch_size, step


def test_a_stretch_is_the_same_in_one_piece_or_in_many() -> None:
    made = order(50, 7)
    whole = made.take(0, 350).numbers.tolist()
    pieces = [
        number
        for start in range(0, 350, 5)
        for number in order(50, 7).take(start, start + 5).numbers.tolist()
    ]
    assert pieces == whole


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    made = order(100, 10)
    orders = [tuple(made.take(100 * epoch, 100 * epoch + 100).numbers.tolist()) for epoch in range(4)]
    orders.append(tuple(order(100, 10, seed=1).take(0, 100).numbers.tolist()))
    assert len(set(orders)) == 5


def test_neighbours_stay_in_runs_that_begin_elsewhere_each_epoch() -> None:
    made = order(1000, 50, run=10)
    begins = []
    for epoch in range(3):
        numbers = made.take(1000 * epoch, 1000 * epoch + 1000).numbers
        runs = numbers[200:].reshape(-1, 10)  # after those that were moved where epochs meet
        assert ((runs[:, :1] + np.arange(10)) % 1000 == runs).all()
        assert not (np.diff(runs[:, 0]) == 10).all()
        begins.append(int(runs[0, 0]) % 10)
    assert len(set(begins)) > 1


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="which has 10: some would be in it twice"):
        order(10, 11)


def mixed(*parts: tuple[int, float], batch_size: int = 10) -> Order:
    starts = np.cumsum([0, *(size for size, _ in parts)]).tolist()
    return Order(
        [
            Part(f"part {i}", start, size, 1, weight)
            for i, (start, (size, weight)) in enumerate(zip(starts, parts, strict=False))
        ],
        batch_size,
    )


def test_a_mixture_has_its_weights_in_every_batch() -> None:
    made = mixed((1000, 3), (50, 1), (1000, 6))
    for step in range(200):
        numbers = made.take(10 * step, 10 * step + 10).numbers
        assert (numbers < 1000).sum() == 3
        assert ((numbers >= 1000) & (numbers < 1050)).sum() == 1


def test_each_part_of_a_mixture_is_gone_through_before_it_begins_again() -> None:
    made = mixed((97, 0.7), (31, 0.3))
    picks = made.take(0, 3000)
    for first, size in ((0, 97), (97, 31)):
        own = picks.numbers[(picks.numbers >= first) & (picks.numbers < first + size)]
        for start in range(0, len(own) - size, size):
            assert sorted(own[start : start + size].tolist()) == list(range(first, first + size))


def test_no_batch_of_a_mixture_has_a_sample_twice() -> None:
    made = mixed((97, 0.7), (31, 0.3))
    for step in range(500):
        assert len(set(made.take(10 * step, 10 * step + 10).numbers.tolist())) == 10


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(1000, 1), (5, 1)], r"a batch of 20 takes 10 samples of part 1, which has 5"),
        ([(1000, 1), (1000, 0)], "above 0"),
        ([(1000, 1), (1000, 1e-6)], f"less than one in {PERIOD}"),
    ],
)
def test_weights_that_cannot_be_kept_are_refused(parts: list[tuple[int, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed(*parts, batch_size=20)


def test_stand_ins_are_other_samples_of_the_same_part_far_away() -> None:
    made = mixed((500, 1), (500, 1))
    batch = made.take(0, 10).numbers.tolist()
    found = [made.stand_ins(place) for place in range(10)]
    assert not {number for some in found for number in some[:20]} & set(batch)
    assert len({some[0] for some in found}) == 10
    assert all(
        (number < 500) == (own < 500) for own, some in zip(batch, found, strict=True) for number in some
    )
