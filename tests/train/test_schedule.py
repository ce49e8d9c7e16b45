"""Learning rate schedules."""

from __future__ import annotations

import math

import pytest

from oneclip.errors import ConfigError
from oneclip.train import TrainCfg, learning_rate


def test_the_warm_up_is_linear() -> None:
    cfg = TrainCfg(steps=100, lr=1.0, warmup=4)
    assert [learning_rate(step, cfg) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_the_cosine_falls_to_0() -> None:
    cfg = TrainCfg(steps=110, lr=2.0, warmup=10)
    assert learning_rate(60, cfg) == pytest.approx(1.0)
    assert learning_rate(35, cfg) == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(110, cfg) == pytest.approx(0.0)
    assert learning_rate(500, cfg) == pytest.approx(0.0)


def test_the_cosine_ends_at_final_lr() -> None:
    assert learning_rate(100, TrainCfg(steps=100, lr=1.0, final_lr=0.1)) == pytest.approx(0.1)


def test_a_constant_schedule_stays_constant() -> None:
    cfg = TrainCfg(steps=10, lr=0.3, warmup=2, schedule="constant")
    assert [learning_rate(step, cfg) for step in (0, 2, 9)] == [0.15, 0.3, 0.3]


def test_a_cooldown_is_that_of_open_clip() -> None:
    cfg = TrainCfg(steps=50, lr=0.3, warmup=5, schedule="constant", cooldown=20, final_lr=0.01)
    for step in range(50):  # const_lr_cooldown of open_clip_torch 3.3.0, scheduler.py, with power 1
        expected = 0.3 * (step + 1) / 5 if step < 5 else 0.3
        if step >= 30:
            expected = (1 - (step - 30) / 20) * (0.3 - 0.01) + 0.01
        assert learning_rate(step, cfg) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="cooldown is 3; expected 0 unless schedule is constant"):
        TrainCfg(steps=10, cooldown=3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("lr", float("nan")),
        ("lr", -1),
        ("precision", "fp8"),
        ("schedule", "linear"),
        ("beta2", 1.0),
    ],
)
def test_a_setting_out_of_range_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is .*expected"):
        TrainCfg(**{"steps": 10, name: value})  # type: ignore[arg-type]


def test_an_unknown_setting_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean warmup"):
        TrainCfg.from_dict({"steps": 10, "warm_up": 3})
