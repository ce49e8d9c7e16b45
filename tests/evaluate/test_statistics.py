"""Bootstrap intervals, against the distribution that they approximate."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from oneclip.errors import DataError
from oneclip.evaluate.statistics import bootstrap_interval, paired_difference


@pytest.mark.parametrize(("correct", "count"), [(30, 50), (900, 1000), (1, 20)])
def test_the_interval_of_an_accuracy_is_that_of_a_binomial_distribution(correct: int, count: int) -> None:
    expected = stats.binom(count, correct / count).ppf([0.025, 0.975]) / count
    values = [1.0] * correct + [0.0] * (count - correct)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.01)


def test_the_interval_of_numbers_is_that_of_resampling_them() -> None:
    values = np.random.default_rng(1).exponential(size=200)
    resampled = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=2)
    expected = resampled.confidence_interval
    assert bootstrap_interval(values) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_strata_are_resampled_among_themselves() -> None:
    values, strata = [0.0] * 30 + [1.0] * 10, [4] * 30 + [2] * 10
    assert bootstrap_interval(values, strata=strata) == (0.25, 0.25)
    low, high = bootstrap_interval(values)
    assert low < 0.25 < high


def test_an_interval_is_the_same_in_each_call() -> None:
    values = np.random.default_rng(0).random(100)
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_a_single_item_has_no_interval() -> None:
    assert all(math.isnan(bound) for bound in bootstrap_interval([1.0]))


def test_a_difference_over_the_same_items_has_a_narrow_interval() -> None:
    first = np.random.default_rng(0).random(1000) < 0.5
    second = first.copy()
    second[:20] = ~second[:20]
    difference, low, high = paired_difference(first, second)
    assert difference == pytest.approx(first.mean() - second.mean())
    separate = bootstrap_interval(first)
    assert low < difference < high
    assert high - low < 0.4 * (separate[1] - separate[0])


def test_models_that_agree_on_all_items_do_not_differ() -> None:
    assert paired_difference([1, 0, 1], [1, 0, 1]) == (0.0, 0.0, 0.0)


def test_results_of_other_items_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="3 and 2 items"):
        paired_difference([1, 0, 1], [1, 0])
