"""Evaluations of several models, data sets and tasks: what is decoded and encoded, and what an earlier run saves."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_datasets import make_classes
from tiny import picture, tiny_cfg, write_tiny_model

import oneclip
from oneclip import checkpoint
from oneclip.config import CLIPVisionCfg, PreprocessCfg
from oneclip.embed.items import Failure, Item
from oneclip.encoder import Encoder
from oneclip.errors import CheckpointError, ConfigError, DataError, OutputError
from oneclip.evaluate import encodings
from oneclip.evaluate.data import EvaluationDataset, Sample
from oneclip.evaluate.data.suites import SuiteEntry
from oneclip.evaluate.encoded import Score
from oneclip.evaluate.encodings import EmbeddingCaches, encode_split, text_encoder
from oneclip.evaluate.evaluated_model import EvaluatedModel
from oneclip.evaluate.result import Result
from oneclip.evaluate.result_files import ResultFolder, build_table
from oneclip.evaluate.run import EvaluationEvents, evaluate, evaluate_all
from oneclip.evaluate.scoring import TaskOptions
from oneclip.model import build_model

CLASSES = ["a cat", "a dog", "a car"]
IMAGES = 12
BATCH = 4


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def model(model_file: Path) -> Encoder:
    return oneclip.load(model_file, device="cpu")


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A model with other weights that takes larger images."""
    import torch

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("larger") / "larger.safetensors"
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=48)
    cfg = tiny_cfg(vision_cfg=vision)
    checkpoint.save_quantized(path, build_model(cfg).state_dict(), cfg, PreprocessCfg(size=48))
    return oneclip.load(path, device="cpu")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Images that all differ."""
    paths = [tmp_path / "images" / f"{number:02}.png" for number in range(IMAGES)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        picture(number).save(path)
    return paths


@pytest.fixture
def dataset(files: list[Path]) -> EvaluationDataset:
    return as_dataset(files)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are decoded, in any order."""
    names: list[str] = []

    def open_and_note(content: Any, **options: Any) -> Image.Image:
        names.append(Path(content.name).name)
        return original(content, **options)

    original = encodings.open_image
    monkeypatch.setattr(encodings, "open_image", open_and_note)
    return names


@pytest.fixture
def caches(tmp_path: Path) -> Iterator[EmbeddingCaches]:
    with EmbeddingCaches(tmp_path / "cache") as opened_caches:
        yield opened_caches


def as_dataset(files: list[Path], name: str = "things", **changes: Any) -> EvaluationDataset:
    samples = [
        Sample(Item(str(path), path.read_bytes, str(path)), label=number % len(CLASSES))
        for number, path in enumerate(files)
    ]
    values = {"splits": {"train": samples, "test": samples}, "classes": CLASSES, **changes}
    return EvaluationDataset(name, "classes", source=str(files[0].parent), **values)


def test_embeddings_are_those_of_the_encoder_in_the_order_of_the_samples(
    model: Encoder, larger: Encoder, dataset: EvaluationDataset, files: list[Path], caches: EmbeddingCaches
) -> None:
    models = [EvaluatedModel(model), EvaluatedModel(larger)]
    splits = encode_split(models, dataset.splits["test"], caches, batch_size=BATCH)
    for split, encoder in zip(splits, (model, larger), strict=True):
        assert [sample.item.name for sample in split.samples] == [str(path) for path in files]
        np.testing.assert_allclose(split.embeddings, encoder.encode_images(files), atol=1e-6)


def test_an_image_is_decoded_once_for_all_models_and_tasks(
    model: Encoder,
    larger: Encoder,
    dataset: EvaluationDataset,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("oneclip.evaluate.run.score_task", lambda *arguments: Score({"acc1": 1.0}, "acc1"))
    results = evaluate_all(
        [model, larger], [dataset], tasks=["zero-shot", "linear-probe"], cache=tmp_path / "cache"
    )
    assert len(results) == 4
    assert sorted(opened) == sorted({f"{number:02}.png" for number in range(IMAGES)})


def test_cached_images_are_not_decoded_again_whatever_their_names(
    model: Encoder, dataset: EvaluationDataset, files: list[Path], tmp_path: Path, opened: list[str]
) -> None:
    first = evaluate(model, dataset, cache=tmp_path / "cache")
    opened.clear()
    moved = [path.rename(path.with_name(f"moved {path.name}")) for path in files]
    again = evaluate(model, as_dataset(moved), cache=tmp_path / "cache")
    assert opened == []
    assert again.metrics == pytest.approx(first.metrics, nan_ok=True)


def test_a_model_added_later_decodes_images_that_the_first_has_cached(
    model: Encoder, larger: Encoder, dataset: EvaluationDataset, files: list[Path], caches: EmbeddingCaches
) -> None:
    encode_split([EvaluatedModel(model)], dataset.splits["test"], caches)
    models = [EvaluatedModel(model), EvaluatedModel(larger)]
    found = encode_split(models, dataset.splits["test"], caches, batch_size=BATCH)[1]
    np.testing.assert_allclose(found.embeddings, larger.encode_images(files), atol=1e-6)


def test_an_interrupted_run_goes_on(
    model: Encoder,
    dataset: EvaluationDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[str],
) -> None:
    class Stop(Exception):
        pass

    def stop_at_third(column: Any) -> None:
        if len(stored) == 2:
            raise Stop
        stored.append(column)
        original(column)

    stored: list[Any] = []
    original = encodings._EmbeddingColumn._store
    monkeypatch.setattr(encodings._EmbeddingColumn, "_store", stop_at_third)
    with pytest.raises(Stop):
        evaluate(model, dataset, cache=tmp_path / "cache", batch_size=BATCH)
    monkeypatch.setattr(encodings._EmbeddingColumn, "_store", original)
    opened.clear()
    evaluate(model, dataset, cache=tmp_path / "cache", batch_size=BATCH)
    assert sorted(opened) == [f"{number:02}.png" for number in range(2 * BATCH, IMAGES)]


def test_what_cannot_be_used_is_listed_and_moves_no_other_image(
    model: Encoder, files: list[Path], caches: EmbeddingCaches
) -> None:
    files[5].write_bytes(b"not an image")
    samples = as_dataset(files).splits["test"]
    listed = [Failure("missing.png", "missing.png does not exist"), *samples]
    (split,) = encode_split([EvaluatedModel(model)], listed, caches, batch_size=BATCH)
    readable = files[:5] + files[6:]
    assert [failure.name for failure in split.skipped] == ["missing.png", str(files[5])]
    assert [sample.item.name for sample in split.samples] == [str(path) for path in readable]
    np.testing.assert_allclose(split.embeddings, model.encode_images(readable), atol=1e-6)


def test_pixels_do_not_pile_up(
    model: Encoder, tmp_path: Path, caches: EmbeddingCaches, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    most = 0

    def count(image: Image.Image) -> Any:
        nonlocal most
        pixels = preprocess(image)
        alive.add(pixels)
        most = max(most, len(alive))
        return pixels

    preprocess = model.pipeline().preprocess
    pipeline = model.pipeline()
    pipeline.preprocess = count
    monkeypatch.setattr(model, "pipeline", lambda: pipeline)
    files = []
    for number in range(100):
        picture(number).save(path := tmp_path / f"{number}.png")
        files.append(path)
    encode_split([EvaluatedModel(model)], as_dataset(files).splits["test"], caches, batch_size=BATCH)
    assert most < 50


def test_a_text_is_encoded_once(
    model: Encoder, caches: EmbeddingCaches, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode: Callable[..., Any] = model.encode_texts
    encoded: list[str] = []

    def note(texts: list[str], **options: Any) -> Any:
        encoded.extend(texts)
        return encode(texts, **options)

    expected = encode(["a cat", "a dog", "a cat"])
    monkeypatch.setattr(model, "encode_texts", note)
    text = text_encoder(EvaluatedModel(model), caches)
    text.encode(["a dog"])
    np.testing.assert_allclose(text.encode(["a cat", "a dog", "a cat"]), expected, atol=1e-6)
    assert encoded == ["a dog", "a cat"]


def finished(results: list[Result]) -> EvaluationEvents:
    """Return events that note the results that are read from files."""
    return EvaluationEvents(
        on_result=lambda result, is_earlier: results.append(result) if is_earlier else None
    )


def test_a_finished_result_is_read_and_no_model_is_loaded(
    model_file: Path, dataset: EvaluationDataset, tmp_path: Path
) -> None:
    (first,) = evaluate_all([model_file], [dataset], out=tmp_path / "out", cache=False)

    def refuse(name: str) -> Encoder:
        raise AssertionError(f"{name} was loaded")

    (again,) = evaluate_all(
        [EvaluatedModel(model_file, refuse)], [dataset], out=tmp_path / "out", cache=False
    )
    assert again.metrics == pytest.approx(first.metrics, nan_ok=True)
    assert again.made_by == first.made_by
    assert again.score.intervals == first.score.intervals
    assert first.score.predictions is not None
    assert again.score.predictions is not None
    np.testing.assert_array_equal(again.score.predictions.predicted, first.score.predictions.predicted)
    assert {key: list(v) for key, v in again.score.items.items()} == {
        key: list(v) for key, v in first.score.items.items()
    }


@pytest.mark.parametrize("change", ["templates", "classes", "data", "options", "damaged"])
def test_a_result_of_other_settings_is_computed_again(
    model: Encoder, dataset: EvaluationDataset, files: list[Path], tmp_path: Path, change: str
) -> None:
    options, changed = TaskOptions(), dataset
    evaluate_all([model], [dataset], out=tmp_path / "out", cache=tmp_path / "cache")
    if change == "templates":
        changed = replace(dataset, templates=["a drawing of {}"])
    elif change == "classes":
        changed = replace(dataset, classes=["cat", "dog", "car"])
    elif change == "data":
        picture(99).save(files[0])
    elif change == "options":
        options = TaskOptions(compat=True)
    else:
        (details,) = (tmp_path / "out" / "details").glob("*.json")
        details.write_bytes(details.read_bytes()[:-20])
    earlier: list[Result] = []
    evaluate_all(
        [model],
        [changed],
        options=options,
        out=tmp_path / "out",
        cache=tmp_path / "cache",
        events=finished(earlier),
    )
    assert earlier == []


def test_a_result_file_has_the_name_and_the_keys_of_clip_benchmark(
    model: Encoder, dataset: EvaluationDataset, tmp_path: Path
) -> None:
    model = oneclip.load("pocket", device="cpu")
    changed = replace(dataset, name="wds/vtab/things", language="de")
    (result,) = evaluate_all([model], [changed], out=tmp_path, cache=False)
    content = json.loads((tmp_path / "vtab_things__pocket_de_zeroshot_classification.json").read_text())
    assert list(content) == ["dataset", "model", "pretrained", "task", "metrics", "language"]
    assert (content["dataset"], content["model"], content["language"]) == ("wds/vtab/things", "pocket", "de")
    assert content["metrics"] == pytest.approx(result.metrics, nan_ok=True)


def test_results_become_one_table(tmp_path: Path) -> None:
    for name, metrics in (("a", {"acc1": 0.5}), ("b", {"r@10": 0.3, "r@5": 0.2})):
        content = {"dataset": name, "model": "M", "pretrained": "p", "task": "t", "metrics": metrics}
        (tmp_path / f"{name}.json").write_text(json.dumps(content | {"language": "en"}))
    assert build_table([tmp_path], tmp_path / "table.csv") == (2, [])
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        "dataset,model,pretrained,task,language,acc1,r@5,r@10,model_fullname",
        "a,M,p,t,en,0.5,,,M p",
        "b,M,p,t,en,,0.2,0.3,M p",
    ]


RESULT = {
    "dataset": "a",
    "model": "M",
    "pretrained": "p",
    "task": "t",
    "metrics": {"acc1": 0.5},
    "language": "en",
}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "it is not a JSON object"),
        (b"\xff{}", "it is not JSON"),
        (
            json.dumps({**RESULT, "metrics": {"acc1": {"a": 1}}}).encode(),
            "its metric 'acc1' is {'a': 1}; expected",
        ),
        (json.dumps({**RESULT, "metrics": 1}).encode(), "its 'metrics' is 1; expected numbers"),
        (json.dumps({**RESULT, "model": 1}).encode(), "its 'model' is 1; expected text"),
        (json.dumps({k: v for k, v in RESULT.items() if k != "metrics"}).encode(), "it has no 'metrics'"),
    ],
)
def test_a_file_that_is_not_a_result_is_named_and_the_others_become_rows(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RESULT))
    (tmp_path / "other.json").write_bytes(content)
    rows, (bad,) = build_table([tmp_path], tmp_path / "table.csv")
    assert rows == 1
    assert f"other.json is not a result: {reason}" in bad.reason


def test_a_table_of_results_has_no_formulas_of_spreadsheets(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**RESULT, "dataset": "=cmd()", "metrics": {"@x": 0.5}}))
    build_table([tmp_path], tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        "dataset,model,pretrained,task,language,'@x,model_fullname",
        "'=cmd(),M,p,t,en,0.5,M p",
    ]


def test_a_folder_of_results_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"the folder .*results cannot be created: Not a directory"):
        ResultFolder(tmp_path / "file" / "results")


@pytest.mark.parametrize(
    ("task", "found"),
    [
        ("zeroshot", "unknown task 'zeroshot'.*did you mean zero-shot"),
        ("retrieval", "things has one class per image, and the task retrieval needs captions"),
        ("linear-probe", "things has only the split test; the task linear-probe also needs"),
    ],
)
def test_a_task_that_does_not_fit_is_an_error(
    model: Encoder, dataset: EvaluationDataset, task: str, found: str
) -> None:
    without_train = replace(dataset, splits={"test": dataset.splits["test"]})
    with pytest.raises((ConfigError, DataError), match=found):
        evaluate(model, without_train, task=task, cache=False)


def test_a_split_without_a_readable_image_is_an_error(model: Encoder, files: list[Path]) -> None:
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"the split test of things has no image that can be read: .*00\.png"):
        evaluate(model, as_dataset(files), cache=False)


def test_a_data_set_that_fails_does_not_stop_the_others(model: Encoder, dataset: EvaluationDataset) -> None:
    failed: list[Failure] = []
    broken = replace(dataset, name="broken", splits={"test": []})
    events = EvaluationEvents(on_failure=failed.append)
    results = evaluate_all([model], [broken, dataset], cache=False, events=events)
    assert [result.dataset.name for result in results] == ["things"]
    assert [failure.name for failure in failed] == ["broken"]


def test_a_task_that_fails_does_not_stop_the_others(
    model: Encoder, dataset: EvaluationDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(task: str, *arguments: Any) -> Score:
        if task == "few-shot":
            raise DataError("too few images")
        return Score({"acc1": 1.0}, "acc1")

    monkeypatch.setattr("oneclip.evaluate.run.score_task", fail)
    failed: list[Failure] = []
    events = EvaluationEvents(on_failure=failed.append)
    results = evaluate_all([model], [dataset], tasks=["few-shot", "zero-shot"], cache=False, events=events)
    assert [result.task for result in results] == ["zeroshot_classification"]
    assert [str(failure.reason) for failure in failed] == ["too few images"]


def test_a_model_that_cannot_be_loaded_ends_the_run(dataset: EvaluationDataset, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    failed: list[Failure] = []
    events = EvaluationEvents(on_failure=failed.append)
    with pytest.raises(CheckpointError, match="broken"):
        evaluate_all([tmp_path / "broken.safetensors"], [dataset, dataset], cache=False, events=events)
    assert failed == []


def test_two_data_sets_of_one_name_are_told_apart(model: Encoder, tmp_path: Path) -> None:
    folders = [make_classes(tmp_path / place / "things", per_class=2) for place in ("a", "b")]
    results = evaluate_all([model], folders, out=tmp_path / "out", cache=False)
    assert [result.dataset.name for result in results] == ["things", str(folders[1])]
    assert len(list((tmp_path / "out").glob("*.json"))) == 2


def test_a_suite_reports_the_metric_that_it_names(model: Encoder, tmp_path: Path) -> None:
    entry = SuiteEntry("the name", str(make_classes(tmp_path / "a")), metric="mean_per_class_recall")
    (result,) = evaluate_all([model], [entry], cache=False)
    assert (result.dataset.name, result.score.headline) == ("the name", "mean_per_class_recall")
