"""An exported folder is evaluated like any other model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_datasets import make_classes
from small_export import write_small_export

import oneclip
from oneclip.cli.evaluate import _is_data
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.evaluate.run import evaluate_all


def test_an_export_is_evaluated_beside_a_model_in_torch(tmp_path: Path) -> None:
    folder = write_small_export(tmp_path / "export").folder
    data = make_classes(tmp_path / "data", per_class=3)
    images, classes = sorted(data.rglob("*.png")), sorted(path.name for path in data.iterdir())
    labels = np.array([classes.index(path.parent.name) for path in images])
    results = evaluate_all([str(folder), "pocket"], [data], cache=False)
    for result, name in zip(results, (folder, "pocket"), strict=True):
        model = oneclip.load(name)
        texts = model.encode_labels(classes, list(SIMPLE_TEMPLATES))
        predicted = model.similarity(model.encode_images(images), texts).argmax(1)
        assert result.metrics["acc1"] == np.mean(predicted == labels)


def test_an_exported_folder_is_a_model_and_no_data(tmp_path: Path) -> None:
    assert not _is_data(str(write_small_export(tmp_path / "export").folder))
    assert _is_data(str(make_classes(tmp_path / "data")))
