"""Metrics that a suite names, and notes about results."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import make_classes
from tiny import write_tiny_model

import oneclip
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.data import SUITES
from oneclip.evaluate.data.suites import SuiteEntry
from oneclip.evaluate.run import EvaluationEvents, evaluate, evaluate_all
from oneclip.evaluate.scoring import TASKS, TaskOptions, check_metric


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"), device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> str:
    return str(make_classes(tmp_path / "things"))


@pytest.mark.parametrize(
    ("task", "metric", "message"),
    [
        (
            "auto",
            "foo",
            "the metric 'foo' of things is not one of any task; expected acc1, acc5",
        ),
        ("linear-probe", "acc1", "is not one of the task linear-probe; expected lp_acc1, lp_acc5"),
        ("few-shot", "acc1@3", "expected acc1@1, acc1@2, acc1@4"),
    ],
)
def test_a_metric_that_no_task_has_is_an_error_before_anything_is_opened(
    model: Encoder, task: str, metric: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(model, SuiteEntry("things", "nowhere", task=task, metric=metric), cache=False)


def test_a_metric_of_another_task_is_an_error_before_images_are_encoded(model: Encoder, source: str) -> None:
    encoded: list[str] = []
    events = EvaluationEvents(on_split=lambda dataset, split: encoded.append(split) or (lambda report: None))
    entry = SuiteEntry("things", source, metric="mean_average_precision")
    with pytest.raises(
        ConfigError, match="'mean_average_precision' of things is not one of the task zero-shot"
    ):
        evaluate_all([model], [entry], cache=False, events=events)
    assert encoded == []


def test_a_metric_that_the_data_does_not_allow_is_an_error(model: Encoder, source: str) -> None:
    entry = SuiteEntry("things", source, metric="worst_group_acc1")
    with pytest.raises(
        DataError, match="things has not what its metric worst_group_acc1 needs; computed were acc1"
    ):
        evaluate(model, entry, cache=False)
    compat = evaluate(model, entry, cache=False, options=TaskOptions(compat=True))
    assert compat.score.headline == "acc1"


def test_the_metric_of_a_task_that_the_caller_chooses(model: Encoder, source: str) -> None:
    entry = SuiteEntry("things", source, metric="mean_per_class_recall")
    assert evaluate(model, entry, task="zero-shot", cache=False).score.headline == "mean_per_class_recall"
    other = SuiteEntry("things", source, metric="lp_acc1")
    assert evaluate(model, other, task="zero-shot", cache=False).score.headline == "acc1"


def test_shots_that_are_left_out_are_noted_once(model: Encoder, tmp_path: Path) -> None:
    source = make_classes(tmp_path / "split", splits={"train": 3, "test": 2})
    notes: list[str] = []
    evaluate_all(
        [model, model],
        [source],
        tasks=["few-shot"],
        options=TaskOptions(shots=(1, 999), seeds=1),
        cache=False,
        events=EvaluationEvents(on_note=notes.append),
    )
    assert notes == ["split: 999 shots are left out, because a class has fewer training images"]


def test_published_suites_name_metrics_that_are_computed() -> None:
    for entries in SUITES.values():
        for entry in entries:
            check_metric(entry.metric, entry.task, TaskOptions(), entry.name)


def test_all_metrics_of_a_result_are_listed(model: Encoder, source: str) -> None:
    metrics = evaluate(model, source, cache=False).metrics
    assert set(metrics) == set(TASKS["zero-shot"].metrics) - {"worst_group_acc1"}
