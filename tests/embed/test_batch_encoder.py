"""Batches that overlap, as on a GPU: each embedding belongs to its item."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import picture

import oneclip
from oneclip.embed.run import EmbedOutcome
from oneclip.encoder import Encoder
from oneclip.engine import DeviceTransfer

Embed = Callable[..., EmbedOutcome]


@pytest.fixture(autouse=True)
def one_batch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceTransfer, "depth", 1)


def test_every_embedding_belongs_to_its_image(run: Embed, photos: Path, encoder: Encoder) -> None:
    picture(0).save("photos/again.jpg")
    Path("photos/broken.jpg").write_bytes(b"no picture")
    outcome = run(photos)
    assert (outcome.rows, outcome.failed) == (7, 1)
    found = np.load("vectors.npz")
    expected = encoder.encode_images([str(name) for name in found["names"]])
    assert np.allclose(found["vectors"], expected, atol=1e-6)
    outcome = run(photos)
    assert (outcome.kept, outcome.encoded) == (7, 0)


def test_encode_images_keeps_the_order(encoder: Encoder) -> None:
    images = [picture(seed) for seed in range(7)]
    parts = list(encoder.stream_images(images, batch_size=2))
    assert [part.kept for part in parts] == [[0, 1], [2, 3], [4, 5], [6]]
    expected = np.concatenate([encoder.encode_images(image) for image in images])
    assert np.allclose(np.concatenate([part.features for part in parts]), expected, atol=1e-6)
    words = ["one", "two words", "now three words", "one"]
    alone = np.concatenate([encoder.encode_texts(word) for word in words])
    assert np.allclose(encoder.encode_texts(words, batch_size=1), alone, atol=1e-6)


def test_batches_before_an_unreadable_image_come_before_its_error(encoder: Encoder) -> None:
    stream = encoder.stream_images([picture(1), b"no picture"], batch_size=1)
    assert next(stream).kept == [0]
    with pytest.raises(oneclip.errors.ImageError):
        next(stream)


def test_a_model_without_finite_numbers_ends_the_overlapped_run(
    run: Embed, photos: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        type(encoder.inference),
        "encode_pixels",
        lambda self, pixels: torch.full((len(pixels), 16), float("nan")),
    )
    with pytest.raises(oneclip.errors.CheckpointError, match="not finite"):
        run(photos)
