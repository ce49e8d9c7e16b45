"""Write datasets with the published package `datasets`: python write_datasets.py FOLDER."""

from __future__ import annotations

import io
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import datasets
from PIL import Image
from small_datasets import COLOURS, image_bytes

CLASSES = list(COLOURS)


def write(folder: Path) -> None:
    """Write the same images as a folder of splits, one split, selected rows and Parquet files, and with two labels."""
    image, label = datasets.Image(), datasets.ClassLabel(names=CLASSES)

    def split(count: int, seed: int) -> datasets.Dataset:
        numbers = [number % len(CLASSES) for number in range(count)]
        images = [open_image(CLASSES[number], seed + row) for row, number in enumerate(numbers)]
        features = datasets.Features({"image": image, "label": label})
        return datasets.Dataset.from_dict({"image": images, "label": numbers}, features=features)

    splits = datasets.DatasetDict({"train": split(6, 0), "validation": split(3, 10), "test": split(4, 20)})
    splits.save_to_disk(folder / "splits")
    splits["test"].save_to_disk(folder / "one_split")
    splits["test"].select([2, 0]).save_to_disk(folder / "selected")
    for name, rows in splits.items():
        (folder / "parquet" / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(folder / "parquet" / "data" / f"{name}-00000-of-00001.parquet")
    several = datasets.Dataset.from_dict(
        {"image": [open_image("red", 30), open_image("blue", 31)], "labels": [[0, 2], [1]]},
        features=datasets.Features({"image": image, "labels": datasets.Sequence(label)}),
    )
    several.save_to_disk(folder / "several_labels")


def open_image(colour: str, seed: int) -> Image.Image:
    """Return the image that `image_bytes` writes."""
    return Image.open(io.BytesIO(image_bytes(colour, seed)))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
