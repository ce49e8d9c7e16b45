"""Data sets of an evaluation as other packages write them, and the published suites."""

from __future__ import annotations

import ast
import io
import os
import sys
from pathlib import Path

import install
import numpy as np
import pytest
from PIL import Image
from small_datasets import image_bytes

from oneclip.evaluate.data import SUITES, Sample, open_dataset
from tests import programs

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with datasets that the package `datasets` has written."""
    if not install.installed(install.ADAPTED):
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("datasets")
    path = os.pathsep.join([str(install.ADAPTED), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    done = programs.run([HERE / "write_datasets.py", folder], environment, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def samples(source: Path, split: str = "test") -> list[Sample]:
    return [each for each in open_dataset(source).split(split) if isinstance(each, Sample)]


@pytest.mark.parametrize(
    ("name", "labels", "seeds"),
    [
        ("splits", [0, 1, 2, 3], [20, 21, 22, 23]),
        ("one_split", [0, 1, 2, 3], [20, 21, 22, 23]),
        ("selected", [2, 0], [22, 20]),
        ("parquet", [0, 1, 2, 3], [20, 21, 22, 23]),
    ],
)
def test_a_dataset_has_the_classes_and_images_that_were_written(
    written: Path, name: str, labels: list[int], seeds: list[int]
) -> None:
    dataset = open_dataset(written / name)
    assert dataset.classes[:4] == ["red", "green", "blue", "yellow"]
    found = samples(written / name)
    assert [each.label for each in found] == labels
    for each, label, seed in zip(found, labels, seeds, strict=True):
        expected = Image.open(io.BytesIO(image_bytes(dataset.classes[label], seed)))
        np.testing.assert_array_equal(Image.open(io.BytesIO(each.item.read())), expected)


@pytest.mark.parametrize("name", ["splits", "parquet"])
def test_a_dataset_has_its_splits(written: Path, name: str) -> None:
    counts = {split: len(samples(written / name, split)) for split in open_dataset(written / name).splits}
    assert counts == {"train": 6, "val": 3, "test": 4}


def test_a_sequence_of_class_labels_is_a_multilabel_dataset(written: Path) -> None:
    assert [each.labels for each in samples(written / "several_labels")] == [(0, 2), (1,)]


@pytest.mark.parametrize("suite", ["vtab+", "vtab", "retrieval", "imagenet_robustness", "sugar_crepe"])
def test_suites_are_those_of_clip_benchmark(suite: str) -> None:
    if not install.installed(install.CLIP_BENCHMARK):
        pytest.skip("the published packages are not here: python tests/parity/install.py")
    source = install.CLIP_BENCHMARK / "clip_benchmark" / "datasets" / "builder.py"
    published = next(
        ast.literal_eval(node.value)
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "dataset_collection"
    )
    ours = [entry.name.removeprefix("wds/") for entry in SUITES[suite.replace("imagenet_", "imagenet-")]]
    assert sorted(ours) == sorted(published[suite])
