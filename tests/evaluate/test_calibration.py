"""Expected calibration error."""

from __future__ import annotations

import numpy as np
import pytest

from oneclip.evaluate.calibration import BINS, calibration


def test_the_error_is_the_weighted_distance_of_confidence_and_accuracy() -> None:
    error, bins = calibration([0.95, 0.97, 0.99, 0.31], [1, 1, 0, 1])
    high, low = (0.95 + 0.97 + 0.99) / 3 - 2 / 3, 1 - 0.31
    assert error == pytest.approx(3 / 4 * abs(high) + 1 / 4 * low)
    assert [each["count"] for each in bins if each["count"]] == [1, 3]


def test_a_model_that_knows_how_sure_it_is_has_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert calibration(confidence, rng.random(len(confidence)) < confidence)[0] == pytest.approx(0, abs=0.01)


def test_every_confidence_has_a_bin() -> None:
    _, bins = calibration([0.0, 1.0, *(i / BINS for i in range(1, BINS))], [0] * (BINS + 1))
    assert [each["count"] for each in bins] == [2, *[1] * (BINS - 1)]
    assert (bins[0]["low"], bins[-1]["high"]) == (0.0, 1.0)
