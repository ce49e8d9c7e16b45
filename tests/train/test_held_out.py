"""The evaluation of a model in training on the held-out pairs of a table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_clip import TinyCLIP

from oneclip.config import PreprocessCfg
from oneclip.errors import ClusterError, DataError, OneCLIPError
from oneclip.evaluate import HeldOut, Retrieval
from oneclip.hub.pairs import Pairs
from oneclip.image import Preprocess
from oneclip.image.prefetch import Skipped
from oneclip.train import World
from oneclip.train.evaluation import Shared


class ByColour(TinyCLIP):
    """Pictures by their mean colour, captions by their token: knows red, green and blue."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(text[:, 0] - 1, 3).float() - 0.3


class Fake:
    """Encodes image i to a row of its number; image "broken" cannot be read, "fatal" ends the process."""

    batch_size = 4

    def __init__(self) -> None:
        self.asked: list[str] = []

    def pictures(self, pictures: Sequence[Any]) -> tuple[torch.Tensor, list[int], list[Skipped]]:
        self.asked += pictures
        if "fatal" in pictures:
            raise DataError("the share is gone")
        kept = [i for i, name in enumerate(pictures) if name != "broken"]
        rows = torch.tensor([[float(pictures[i])] for i in kept])
        return (
            rows,
            kept,
            [Skipped(i, name, DataError("no")) for i, name in enumerate(pictures) if i not in kept],
        )

    def captions(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(name)] for name in captions])

    def temperature(self) -> tuple[float, float | None]:
        return 1.0, None


class Rank(World):
    """One of several ranks in threads of one process."""

    meeting: Any

    def gather(self, value: Any) -> list[Any]:
        boxes, barrier = self.meeting
        boxes[self.rank] = value
        barrier.wait(timeout=10)
        found = list(boxes)
        barrier.wait(timeout=10)
        return found


def on_ranks(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What each of some ranks gives, or the error that it ends with."""
    meeting = [None] * size, threading.Barrier(size)

    def run(rank: int) -> Any:
        world = Rank(rank, size)
        object.__setattr__(world, "meeting", meeting)
        try:
            return work(world)
        except OneCLIPError as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def test_processes_share_an_evaluation_and_all_have_what_one_would() -> None:
    pictures, captions = ["0", "broken", "2", "3", "4", "5", "6"], ["5", "6", "7", "8"]
    fakes = [Fake() for _ in range(3)]

    def work(world: World) -> Any:
        shared = Shared(fakes[world.rank], world)
        return shared.pictures(pictures), shared.captions(captions)

    for (rows, kept, skipped), texts in on_ranks(3, work):
        assert rows.flatten().tolist() == [0, 2, 3, 4, 5, 6]
        assert kept == [0, 2, 3, 4, 5, 6]
        assert [one.name for one in skipped] == ["broken"]
        assert texts.flatten().tolist() == [5, 6, 7, 8]
    assert [fake.asked for fake in fakes] == [["0", "3", "6"], ["broken", "4"], ["2", "5"]]


def test_fewer_items_than_processes_and_none_that_can_be_read_are_fine() -> None:
    def work(world: World) -> Any:
        shared = Shared(Fake(), world)
        return shared.pictures(["broken"])[:2], shared.captions(["1"])

    for (rows, kept), texts in on_ranks(3, work):
        assert (len(rows), kept, texts.tolist()) == (0, [], [[1.0]])


def test_what_one_process_cannot_evaluate_ends_all_of_them() -> None:
    ended = on_ranks(2, lambda world: Shared(Fake(), world).pictures(["0", "fatal"]))
    assert isinstance(ended[0], ClusterError)
    assert str(ended[0]) == "process 0 ends because process 1 did: the share is gone"
    assert isinstance(ended[1], DataError)


def test_an_evaluation_encodes_a_micro_batch_at_once_and_its_loss_is_over_a_batch(tmp_path: Path) -> None:
    evaluation = held_out(tmp_path, ["red", "green", "blue"])
    sizes = []

    class Watched(ByColour):
        def encode_image(self, image: torch.Tensor) -> torch.Tensor:
            sizes.append(len(image))
            return super().encode_image(image)

    whole = evaluation(Watched())
    parts = held_out(tmp_path, ["red", "green", "blue"], micro_batch=1)(Watched())
    assert sizes == [2, 1, 1, 1, 1]
    assert parts == pytest.approx(whole)


def held_out(folder: Path, captions: list[str], **options: Any) -> HeldOut:
    for name in ("red", "green", "blue"):
        Image.new("RGB", (10, 10), name if name != "green" else "lime").save(folder / f"{name}.png")
    words = {"red": 1, "green": 2, "blue": 3}
    pairs = Pairs("held_out.csv", ["red.png", "green.png", "blue.png"], captions)
    return HeldOut(
        Retrieval.of_pairs(pairs, folder, at=(1, 2)),
        Preprocess(PreprocessCfg(size=8)),
        lambda texts: torch.tensor([[words[text]] for text in texts]),
        batch_size=2,
        **options,
    )


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
