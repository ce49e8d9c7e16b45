"""The evaluation of a model in training on the held-out pairs of a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_clip import TinyCLIP

from oneclip.config import PreprocessCfg
from oneclip.errors import DataError
from oneclip.image import Preprocess
from oneclip.pairs import Pairs
from oneclip.train import Prepare
from oneclip.train.evaluate import HeldOut


class ByColour(TinyCLIP):
    """Pictures by their mean colour, captions by their token: knows red, green and blue."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(text[:, 0] - 1, 3).float() - 0.3


def held_out(folder: Path, captions: list[str]) -> HeldOut:
    for name in ("red", "green", "blue"):
        Image.new("RGB", (10, 10), name if name != "green" else "lime").save(folder / f"{name}.png")
    words = {"red": 1, "green": 2, "blue": 3}
    prepare = Prepare(lambda texts: torch.tensor([[words[text]] for text in texts]))
    pairs = Pairs("held_out.csv", ["red.png", "green.png", "blue.png"], captions)
    return HeldOut(pairs, folder, Preprocess(PreprocessCfg(size=8)), prepare, batch_size=2, at=(1, 2))


def test_a_model_that_knows_recalls_all_and_one_that_confuses_two_a_third(tmp_path: Path) -> None:
    results = held_out(tmp_path, ["red", "green", "blue"])(ByColour())
    assert results["text_to_image_recall@1"] == results["image_to_text_recall@1"] == 1.0
    confused = held_out(tmp_path, ["red", "blue", "green"])(ByColour())
    assert confused["text_to_image_recall@1"] == pytest.approx(1 / 3)
    assert confused["loss"] > results["loss"]
    assert set(results) == {"loss", "mean_recall@1"} | {
        f"{way}_recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 2)
    }


def test_broken_pictures_are_left_out_and_named(tmp_path: Path) -> None:
    evaluation = held_out(tmp_path, ["red", "green", "blue"])
    (tmp_path / "red.png").write_bytes(b"no picture")
    assert evaluation(ByColour())["text_to_image_recall@1"] == 1.0
    assert list(evaluation.skipped) == ["red.png"]
    for name in ("green", "blue"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 3"):
        evaluation(ByColour())
