"""Sampler: every sample once per epoch, shuffled by seed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneclip.errors import ConfigError
from oneclip.train.data.sampler import PATTERN_LENGTH, Permutation, SourceRange, StreamSampler


def make_sampler(size: int, batch_size: int, *, block_size: int = 1, seed: int = 0) -> StreamSampler:
    return StreamSampler([SourceRange("the data", 0, size, block_size)], batch_size, seed)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3000), st.integers(0, 1 << 70))
def test_a_permutation_has_every_number_once(size: int, key: int) -> None:
    assert sorted(Permutation(size, (key,))(np.arange(size)).tolist()) == list(range(size))


def test_every_number_is_first_equally_often() -> None:
    firsts = Counter(int(Permutation(10, (seed,))(np.array([0]))[0]) for seed in range(5000))
    chi_squared = sum((firsts[number] - 500) ** 2 / 500 for number in range(10))
    assert chi_squared < 27.9  # 0.999 quantile, 9 degrees of freedom


def test_neighbours_do_not_stay_together() -> None:
    numbers = Permutation(100_000, (0, 1))(np.arange(100_000))
    steps = np.abs(np.diff(numbers))
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02
    assert abs(steps.mean() - 100_000 / 3) < 500  # expected distance of two random numbers


def test_a_place_of_a_trillion_samples_costs_no_memory() -> None:
    picks = make_sampler(10**12, 32_768).take(5 * 10**12, 5 * 10**12 + 32_768)
    assert len(set(picks.numbers.tolist())) == 32_768
    assert set(picks.epochs.tolist()) == {5}
    assert picks.numbers.min() >= 0
    assert picks.numbers.max() < 10**12


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_each_epoch_has_each_sample_once(size: int, batch_size: int, block_size: int, epoch: int) -> None:
    sampler = make_sampler(size, min(batch_size, size), block_size=block_size)
    picks = sampler.take(epoch * size, (epoch + 1) * size)
    assert sorted(picks.numbers.tolist()) == list(range(size))
    assert set(picks.epochs.tolist()) == {epoch}


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(0, 60), st.integers(1, 9), st.integers(0, 3))
def test_no_batch_repeats_a_sample_at_the_border_of_epochs(
    batch_size: int, more: int, block_size: int, seed: int
) -> None:
    size = 2 * batch_size + more
    sampler = make_sampler(size, batch_size, block_size=block_size, seed=seed)
    for step in range(6 * size // batch_size):
        numbers = sampler.take(step * batch_size, (step + 1) * batch_size).numbers.tolist()
        assert len(set(numbers)) == batch_size, step


def test_a_slice_is_the_same_read_at_once_or_in_pieces() -> None:
    sampler = make_sampler(50, 7)
    whole = sampler.take(0, 350).numbers.tolist()
    pieces = [
        number
        for start in range(0, 350, 5)
        for number in make_sampler(50, 7).take(start, start + 5).numbers.tolist()
    ]
    assert pieces == whole


def test_epochs_and_seeds_have_different_orders() -> None:
    sampler = make_sampler(100, 10)
    orders = [tuple(sampler.take(100 * epoch, 100 * epoch + 100).numbers.tolist()) for epoch in range(4)]
    orders.append(tuple(make_sampler(100, 10, seed=1).take(0, 100).numbers.tolist()))
    assert len(set(orders)) == 5


def test_neighbours_stay_in_blocks_whose_borders_move_each_epoch() -> None:
    sampler = make_sampler(1000, 50, block_size=10)
    borders = []
    for epoch in range(3):
        numbers = sampler.take(1000 * epoch, 1000 * epoch + 1000).numbers
        blocks = numbers[200:].reshape(
            -1, 10
        )  # after the samples that were swapped at the start of the epoch
        assert ((blocks[:, :1] + np.arange(10)) % 1000 == blocks).all()
        assert not (np.diff(blocks[:, 0]) == 10).all()
        borders.append(int(blocks[0, 0]) % 10)
    assert len(set(borders)) > 1


def test_a_batch_larger_than_the_data_raises() -> None:
    with pytest.raises(
        ConfigError, match="needs 11 samples of the data, which has 10; use --batch-size 10 or less"
    ):
        make_sampler(10, 11)


def make_mixture(*sources: tuple[int, float], batch_size: int = 10) -> StreamSampler:
    starts = np.cumsum([0, *(size for size, _ in sources)]).tolist()
    return StreamSampler(
        [
            SourceRange(f"source {i}", start, size, 1, weight)
            for i, (start, (size, weight)) in enumerate(zip(starts, sources, strict=False))
        ],
        batch_size,
    )


def test_a_mixture_has_its_weights_in_every_batch() -> None:
    sampler = make_mixture((1000, 3), (50, 1), (1000, 6))
    for step in range(200):
        numbers = sampler.take(10 * step, 10 * step + 10).numbers
        assert (numbers < 1000).sum() == 3
        assert ((numbers >= 1000) & (numbers < 1050)).sum() == 1


def test_each_source_of_a_mixture_is_used_up_before_it_repeats() -> None:
    sampler = make_mixture((97, 0.7), (31, 0.3))
    picks = sampler.take(0, 3000)
    for first, size in ((0, 97), (97, 31)):
        own = picks.numbers[(picks.numbers >= first) & (picks.numbers < first + size)]
        for start in range(0, len(own) - size, size):
            assert sorted(own[start : start + size].tolist()) == list(range(first, first + size))


def test_no_batch_of_a_mixture_repeats_a_sample() -> None:
    sampler = make_mixture((97, 0.7), (31, 0.3))
    for step in range(500):
        assert len(set(sampler.take(10 * step, 10 * step + 10).numbers.tolist())) == 10


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            [(1000, 1), (5, 1)],
            "needs 10 samples of source 1, which has 5; use --batch-size 10 or less, or a smaller weight",
        ),
        ([(1000, 1), (1000, 0)], "above 0"),
        ([(1000, 1), (1000, 1e-6)], f"less than one in {PATTERN_LENGTH}"),
    ],
)
def test_weights_out_of_range_raise(sources: list[tuple[int, float]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_mixture(*sources, batch_size=20)


def test_stand_ins_are_far_samples_of_the_same_source() -> None:
    sampler = make_mixture((500, 1), (500, 1))
    batch = sampler.take(0, 10).numbers.tolist()
    found = [sampler.stand_ins(place) for place in range(10)]
    assert not {number for some in found for number in some[:20]} & set(batch)
    assert len({some[0] for some in found}) == 10
    assert all(
        (number < 500) == (own < 500) for own, some in zip(batch, found, strict=True) for number in some
    )
