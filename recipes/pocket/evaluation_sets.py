"""Held-out pictures as they are, and the captions to find them by.

`python -m recipes.pocket.evaluation_sets --data DIR` writes the small sample that is kept in the repository.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.pocket.drawing import draw_plain

SPLITS = ("twemoji", "openmoji", "ph", "healthicons", "openclipart", "unseen")
SAMPLE_FILE = Path(__file__).with_name("heldout_sample.npz")
SAMPLE = {"twemoji": 200, "ph": 200, "healthicons": 100}
"""Pictures of each split in the committed sample; OpenMoji is share-alike and never in it."""

ATTRIBUTION = (
    "twemoji: Copyright Twitter, Inc and other contributors, CC-BY-4.0, drawn at 64 pixels from their SVG; "
    "ph: Phosphor Icons, MIT; healthicons: Health Icons by Resolve to Save Lives, MIT"
)


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures and captions of one split.

    Attributes:
        images: (N, 3, 64, 64) uint8: one-colour pictures black on white, colour pictures over white.
        captions: M captions. M = N and each belongs to the picture of its place, but for "unseen", where they
            are the words that pictures are told apart by.
        labels: (N,) int64, the caption of each picture.
        ids: "set:name" of each picture.
    """

    images: Tensor
    captions: tuple[str, ...]
    labels: Tensor
    ids: tuple[str, ...]


def evaluation_set(data: Path | str, split: str) -> EvaluationSet:
    """Read one held-out split of a built dataset.

    Args:
        data: what `recipes.pocket.build` wrote.
        split: one of `SPLITS`.

    Raises:
        ValueError: if the dataset holds no such split.
    """
    import pyarrow.parquet as pq

    data = Path(data)
    columns = ["id", "kind", "row", "name", "concept"]
    table = pq.read_table(
        data / "table.parquet", columns=columns, filters=[("split", "=", split)]
    ).to_pydict()
    if not table["id"]:
        raise ValueError(f"{data / 'table.parquet'} has no split {split!r}; known are {', '.join(SPLITS)}")
    images = torch.empty(len(table["id"]), 3, 64, 64, dtype=torch.uint8)
    for kind in ("mono", "colour"):
        places = [place for place, found in enumerate(table["kind"]) if found == kind]
        if places:
            stored = np.load(data / f"{kind}.npy", mmap_mode="r")
            images[places] = draw_plain(torch.from_numpy(stored[[table["row"][place] for place in places]]))
    if split != "unseen":
        return EvaluationSet(images, tuple(table["name"]), torch.arange(len(images)), tuple(table["id"]))
    words = tuple(sorted(set(table["concept"])))
    labels = torch.tensor([words.index(word) for word in table["concept"]])
    return EvaluationSet(images, words, labels, tuple(table["id"]))


def write_sample(data: Path, path: Path = SAMPLE_FILE) -> None:
    """Write the sample that continuous integration evaluates: evenly spaced pictures of three splits.

    Pictures lie side by side in one PNG a split, which holds them exactly in a fifth of the bytes.
    """
    arrays: dict[str, NDArray[np.generic]] = {"attribution": np.array(ATTRIBUTION)}
    for split, count in SAMPLE.items():
        found = evaluation_set(data, split)
        chosen = np.linspace(0, len(found.captions) - 1, min(count, len(found.captions))).round().astype(int)
        arrays[f"{split}.png"] = np.frombuffer(_to_png(found.images[chosen].numpy()), dtype=np.uint8)
        arrays[f"{split}.captions"] = np.array([found.captions[i] for i in chosen])
        arrays[f"{split}.ids"] = np.array([found.ids[i] for i in chosen])
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def read_sample(path: Path = SAMPLE_FILE) -> dict[str, EvaluationSet]:
    """The committed sample, by split."""
    with np.load(path, allow_pickle=False) as stored:
        sets = {}
        for split in SAMPLE:
            captions = tuple(stored[f"{split}.captions"].tolist())
            images = torch.from_numpy(_from_png(stored[f"{split}.png"].tobytes(), len(captions)))
            ids = tuple(stored[f"{split}.ids"].tolist())
            sets[split] = EvaluationSet(images, captions, torch.arange(len(captions)), ids)
    return sets


def _to_png(images: NDArray[np.uint8]) -> bytes:
    """(N, 3, 64, 64) to one tall PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(images.transpose(0, 2, 3, 1).reshape(-1, 64, 3)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _from_png(data: bytes, count: int) -> NDArray[np.uint8]:
    from PIL import Image

    sheet = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return np.ascontiguousarray(sheet.reshape(count, 64, 64, 3).transpose(0, 3, 1, 2))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes.pocket.build")
    args = parser.parse_args()
    write_sample(args.data)
    print(f"{SAMPLE_FILE.name}: {SAMPLE_FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
