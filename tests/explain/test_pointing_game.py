"""Pointing game: maps of pocket point at the right one of four held-out drawings, and their places matter to it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

import oneclip
from oneclip.evaluate import load_pocket_heldout

SIDE = 64  # pixels of a drawing
SEEDS = (0, 1, 2)
DRAWINGS = 80  # of each style, so that the test is fast
COMPOSITES = 5  # per seed, of drawings that pocket tells apart when they are shown alone


@pytest.fixture(scope="module")
def pocket() -> oneclip.Encoder:
    return oneclip.load("pocket")


@pytest.fixture(scope="module")
def composites(pocket: oneclip.Encoder) -> list[tuple[Image.Image, list[str]]]:
    """2 x 2 composites of drawings of one style, with the names of the drawings."""
    made = []
    tasks: Any = load_pocket_heldout().tasks
    encoded = [
        (pocket.encode_images(task.images[:DRAWINGS]), pocket.encode_texts(task.texts[:DRAWINGS]))
        for task in tasks
    ]
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        wanted = len(made) + COMPOSITES
        while len(made) < wanted:
            which = len(made) % len(tasks)
            chosen = random.choice(DRAWINGS, 4, replace=False)
            cosines = encoded[which][0][chosen] @ encoded[which][1][chosen].T
            if (cosines.argmax(0) == range(4)).all() and (cosines.argmax(1) == range(4)).all():
                image = Image.new("RGB", (2 * SIDE, 2 * SIDE))
                for place, i in zip(product((0, SIDE), repeat=2), chosen, strict=True):
                    image.paste(tasks[which].images[i], place[::-1])
                made.append((image, [tasks[which].texts[i] for i in chosen]))
    return made


@pytest.mark.parametrize(("method", "least"), [("dense", 0.90), ("windows", 0.97)])
def test_a_map_peaks_in_the_drawing_of_its_name(
    pocket: oneclip.Encoder, composites: list[tuple[Image.Image, list[str]]], method: Any, least: float
) -> None:
    hits = []
    for image, names in composites:
        maps = pocket.explain(image, names, method=method)
        hits += [
            (peak.y >= SIDE, peak.x >= SIDE) == (index >= 2, index % 2 == 1)
            for index in range(4)
            for peak in [maps.peak(index)]
        ]
    assert len(hits) == 4 * COMPOSITES * len(SEEDS)
    assert np.mean(hits) >= least


def test_removing_the_highest_values_hides_the_drawing_and_keeping_them_keeps_it(
    pocket: oneclip.Encoder, composites: list[tuple[Image.Image, list[str]]]
) -> None:
    """A quarter of the pixels by the map, against a quarter at random."""
    random = np.random.default_rng(0)
    deleted, inserted = [], []
    for image, names in composites:
        pixels = np.asarray(image)
        gray = np.full_like(pixels, 128)
        values = pocket.explain(image, names).values[0]
        noise = np.kron(random.random((4, 4)), np.ones((SIDE // 2, SIDE // 2)))
        masks = [(part >= np.quantile(part, 0.75))[..., None] for part in (values, noise)]
        images = [np.where(mask, *two) for mask in masks for two in ((gray, pixels), (pixels, gray))]
        chances = pocket.probabilities(pocket.encode_images(images), pocket.encode_texts(names))[:, 0]
        deleted.append(chances[[0, 2]])
        inserted.append(chances[[1, 3]])
    by_map, by_chance = np.mean(deleted, axis=0)
    assert by_map < by_chance - 0.1
    by_map, by_chance = np.mean(inserted, axis=0)
    assert by_map > by_chance + 0.1
