"""Test images of any number and size, cropped from photographs in installed packages.

Each image is another crop at a random place and size, so all are different and have the detail and colours of a camera.
Packages are found without importing them.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

SEED = 0
# photographs in colour, by the folder of the package that they come with
PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "rocket.jpg",
        "ihc.png",
        "motorcycle_left.png",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
}


def find() -> list[Image.Image]:
    """Load the photographs found on this machine, in RGB."""
    found = []
    for place, names in PHOTOGRAPHS.items():
        package, _, below = place.partition("/")
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations or [] if spec else []:
            paths = (Path(folder) / below / name for name in names)
            found += [Image.open(path).convert("RGB") for path in paths if path.is_file()]
    if not found:
        sys.exit("no photographs are here; they come with: pip install scikit-image scikit-learn matplotlib")
    return found


def crops(count: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """Yield images of (width, height), each from a crop of between a fifth and all of a photograph."""
    photographs, chance = find(), random.Random(SEED)
    width, height = size
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        largest = min(photograph.width / width, photograph.height / height)
        share = largest * chance.uniform(0.2, 1)
        across, down = share * width, share * height
        left, top = chance.uniform(0, photograph.width - across), chance.uniform(0, photograph.height - down)
        yield photograph.resize(size, Image.Resampling.BICUBIC, (left, top, left + across, top + down))


def write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write crops as files `00000.jpg`, … with quality 90."""
    for number, image in enumerate(crops(count, size)):
        image.save(folder / f"{number:05}.jpg", "JPEG", quality=90)
