"""Evaluation on held-out pairs during a training."""

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
from oneclip.evaluate import EvaluationHook, Retrieval
from oneclip.hub.pairs import CaptionPairs
from oneclip.image import Preprocess
from oneclip.image.prefetch import SkippedImage
from oneclip.train import World
from oneclip.train.evaluation import DistributedExtractor


class ByColour(TinyCLIP):
    """Model that encodes images by mean colour and texts by their token: it knows red, green and blue."""

    def encode_image(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))

    def encode_text(self, text: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(text[:, 0] - 1, 3).float() - 0.3


class NumberExtractor:
    """Encodes an item to its number. The image "broken" cannot be read; "fatal" ends the process."""

    batch_size = 4

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_images(self, images: Sequence[Any]) -> tuple[torch.Tensor, list[int], list[SkippedImage]]:
        self.encoded += images
        if "fatal" in images:
            raise DataError("the share is gone")
        kept = [i for i, name in enumerate(images) if name != "broken"]
        rows = torch.tensor([[float(images[i])] for i in kept])
        return (
            rows,
            kept,
            [SkippedImage(i, name, DataError("no")) for i, name in enumerate(images) if i not in kept],
        )

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[float(text)] for text in texts])

    def logit_scale_and_bias(self) -> tuple[float, float | None]:
        return 1.0, None


class Rank(World):
    """One rank, run in a thread of this process."""

    meeting: Any

    def gather(self, value: Any) -> list[Any]:
        boxes, barrier = self.meeting
        boxes[self.rank] = value
        barrier.wait(timeout=10)
        found = list(boxes)
        barrier.wait(timeout=10)
        return found


def on_ranks(size: int, work: Callable[[World], Any]) -> list[Any]:
    """Return the result of each rank, or the error that it raises."""
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


def test_processes_that_share_an_evaluation_get_the_result_of_one() -> None:
    images, texts = ["0", "broken", "2", "3", "4", "5", "6"], ["5", "6", "7", "8"]
    extractors = [NumberExtractor() for _ in range(3)]

    def work(world: World) -> Any:
        shared = DistributedExtractor(extractors[world.rank], world)
        return shared.encode_images(images), shared.encode_texts(texts)

    for (rows, kept, skipped), embeddings in on_ranks(3, work):
        assert rows.flatten().tolist() == [0, 2, 3, 4, 5, 6]
        assert kept == [0, 2, 3, 4, 5, 6]
        assert [one.name for one in skipped] == ["broken"]
        assert embeddings.flatten().tolist() == [5, 6, 7, 8]
    assert [extractor.encoded for extractor in extractors] == [["0", "3", "6"], ["broken", "4"], ["2", "5"]]


def test_an_evaluation_works_with_fewer_items_than_processes_and_with_unreadable_images() -> None:
    def work(world: World) -> Any:
        shared = DistributedExtractor(NumberExtractor(), world)
        return shared.encode_images(["broken"])[:2], shared.encode_texts(["1"])

    for (rows, kept), embeddings in on_ranks(3, work):
        assert (len(rows), kept, embeddings.tolist()) == (0, [], [[1.0]])


def test_an_error_of_one_process_ends_all_of_them() -> None:
    ended = on_ranks(
        2, lambda world: DistributedExtractor(NumberExtractor(), world).encode_images(["0", "fatal"])
    )
    assert isinstance(ended[0], ClusterError)
    assert str(ended[0]) == "process 0 stops because process 1 failed: the share is gone"
    assert isinstance(ended[1], DataError)


def test_an_evaluation_encodes_in_micro_batches_without_changing_its_loss(tmp_path: Path) -> None:
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


def held_out(folder: Path, captions: list[str], **options: Any) -> EvaluationHook:
    for name in ("red", "green", "blue"):
        Image.new("RGB", (10, 10), name if name != "green" else "lime").save(folder / f"{name}.png")
    words = {"red": 1, "green": 2, "blue": 3}
    pairs = CaptionPairs("held_out.csv", ["red.png", "green.png", "blue.png"], captions)
    return EvaluationHook(
        Retrieval.from_pairs(pairs, folder, at=(1, 2)),
        Preprocess(PreprocessCfg(size=8)),
        lambda texts: torch.tensor([[words[text]] for text in texts]),
        batch_size=2,
        **options,
    )


def test_recall_is_one_for_a_perfect_model_and_a_third_if_two_texts_are_swapped(tmp_path: Path) -> None:
    results = held_out(tmp_path, ["red", "green", "blue"])(ByColour())
    assert results["image_retrieval_recall@1"] == results["text_retrieval_recall@1"] == 1.0
    confused = held_out(tmp_path, ["red", "blue", "green"])(ByColour())
    assert confused["image_retrieval_recall@1"] == pytest.approx(1 / 3)
    assert confused["loss"] > results["loss"]
    assert set(results) == {"loss", "mean_recall@1"} | {
        f"{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 2)
    }


def test_broken_images_are_left_out_and_reported(tmp_path: Path) -> None:
    evaluation = held_out(tmp_path, ["red", "green", "blue"])
    (tmp_path / "red.png").write_bytes(b"not an image")
    assert evaluation(ByColour())["image_retrieval_recall@1"] == 1.0
    assert list(evaluation.skipped) == ["red.png"]
    for name in ("green", "blue"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 3"):
        evaluation(ByColour())
