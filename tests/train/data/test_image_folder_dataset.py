"""Folders of classes, and tables with several captions per image, as training data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import write_tiny_model

import oneclip
from oneclip.config import PreprocessCfg
from oneclip.errors import DataError
from oneclip.image import Augment
from oneclip.train import Batch, Features, Objective, RunCfg, TrainCfg, World
from oneclip.train.data import BatchLoader, ImageFolderDataset, open_dataset
from oneclip.train.initial_model import InitialModel
from oneclip.train.run import run as train

COLOURS = {"red": (200, 20, 20), "dark_green": (10, 90, 10), "blue": (20, 20, 200)}


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for number, (name, colour) in enumerate(COLOURS.items()):
        for i in range(4):
            path = tmp_path / "classes" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), tuple(min(255, c + 9 * i + number) for c in colour)).save(path)
    return tmp_path / "classes"


def batch_of(source: Path, size: int, **options: object) -> Batch:
    loader = BatchLoader(open_dataset(str(source), **options), size, Augment(PreprocessCfg(size=32)))  # type: ignore[arg-type]
    batch = loader.batch(0)
    loader.close()
    return batch


def test_each_image_gets_a_prompt_of_its_class(classes: Path) -> None:
    samples = open_dataset(str(classes), templates=["a {}.", "some {}"])
    assert isinstance(samples, ImageFolderDataset)
    assert samples.classes == ["blue", "dark green", "red"]
    batch = batch_of(classes, 12, templates=["a {}.", "some {}"])
    names = ["blue", "dark green", "red"]
    for caption, label in zip(batch.texts, batch.extra["label"].tolist(), strict=True):
        assert caption in (f"a {names[label]}.", f"some {names[label]}")
    assert batch.extra["label"].bincount().tolist() == [4, 4, 4]
    assert len(set(batch.extra["same"].tolist())) == 3
    assert len(set(batch.texts)) > 3


def test_a_class_without_images_raises(classes: Path) -> None:
    (classes / "white").mkdir()
    with pytest.raises(DataError, match="white has no images"):
        open_dataset(str(classes))


def test_rows_with_the_same_image_share_a_number(classes: Path, tmp_path: Path) -> None:
    rows = ["red/0.png,one", "red/0.png,two", "blue/1.png,three", "red/1.png,four"]
    (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", *rows]))
    batch = batch_of(tmp_path / "pairs.csv", 4, images=classes)
    number = dict(zip(batch.texts, batch.extra["same"].tolist(), strict=True))
    assert number["one"] == number["two"] >= 0
    assert len(set(number.values())) == 3
    assert not batch_of(tmp_path / "pairs.csv", 3, images=classes, by_image=True).extra
    (tmp_path / "pairs.csv").write_text("\n".join(["filepath,caption", rows[0], rows[2]]))
    assert not batch_of(tmp_path / "pairs.csv", 2, images=classes).extra


def test_samples_without_a_class_get_minus_one_in_a_mixture(classes: Path) -> None:
    samples = open_dataset([f"{classes}@1", "synthetic:12@1"])
    loader = BatchLoader(samples, 12, Augment(PreprocessCfg(size=32)))
    labels, same = (loader.batch(0).extra[name].tolist() for name in ("label", "same"))
    loader.close()
    assert labels.count(-1) == same.count(-1) == 6


def test_a_model_trained_on_a_folder_of_classes_recognizes_them(classes: Path, tmp_path: Path) -> None:
    cfg = RunCfg(
        data=classes,
        eval_data=classes,
        templates="a {} thing",
        out=tmp_path / "run",
        pretrained=write_tiny_model(tmp_path / "tiny.safetensors"),
        epochs=25,
        batch_size=12,
        evaluate_every=25,
        device="cpu",
        tensorboard=False,
        train={"lr": 3e-3},
    )
    result = train(cfg)
    assert result.outcome.evaluation["acc1"] == 1.0
    model = oneclip.load(result.model, device="cpu")
    labels = [f"a {name} thing" for name in ("red", "dark green", "blue")]
    assert model.classify(classes / "dark_green" / "2.png", labels)[0][0] == "a dark green thing"


def test_a_custom_objective_receives_the_labels(classes: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    class ByLabel(Objective):
        def forward(self, features: Features, batch: Batch) -> dict[str, torch.Tensor]:
            seen.append(batch.extra["label"])
            return super().forward(features, batch) | {"labels": batch.extra["label"].float().mean()}

    def objective(start: InitialModel, cfg: TrainCfg, world: World) -> Objective:
        from oneclip.losses import ClipLoss

        return ByLabel(ClipLoss())

    cfg = RunCfg(
        data=classes,
        out=tmp_path / "run",
        pretrained=write_tiny_model(tmp_path / "tiny.safetensors"),
        steps=1,
        batch_size=12,
        device="cpu",
        tensorboard=False,
        preflight="off",
    )
    train(cfg, objective=objective)
    assert [labels.bincount().tolist() for labels in seen] == [[4, 4, 4]]
    assert '"labels": 1.0' in (tmp_path / "run" / "metrics.jsonl").read_text()
