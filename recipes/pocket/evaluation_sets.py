"""Evaluation sets: held-out images without augmentation, and their captions.

`python -m recipes.pocket.evaluation_sets --data DIR` writes the small sample that is kept in the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.pocket.drawing import draw_plain
from recipes.pocket.names import words_of
from recipes.pocket.subgroups import EVALUATED, PHRASES

SPLITS = ("twemoji", "openmoji", "ph", "healthicons", "openclipart", "unseen")
KEYWORDS, SUBGROUPS = "keywords", "subgroups"
"""Two more sets of twemoji: retrieval by three keywords without the name, and classification by Unicode subgroup."""
ALL_SETS = (*SPLITS, KEYWORDS, SUBGROUPS)
KEYWORDS_A_QUERY = 3
SAMPLE_FILE = Path(__file__).with_name("heldout_sample.npz")
SAMPLE = {"twemoji": 200, "ph": 200, "healthicons": 100}
"""Images of each split in the committed sample. OpenMoji is share-alike and therefore excluded."""

ATTRIBUTION = (
    "twemoji: Copyright Twitter, Inc and other contributors, CC-BY-4.0, drawn at 64 pixels from their SVG; "
    "ph: Phosphor Icons, MIT; healthicons: Health Icons by Resolve to Save Lives, MIT"
)


@dataclass(frozen=True)
class EvaluationSet:
    """Images and captions of one split.

    Attributes:
        images: (N, 3, 64, 64) uint8: one-colour images black on white, colour images over white.
        captions: M queries (retrieval) or class labels.
        labels: int64; for retrieval (M,) the image of each query; for classification (N,) the class of each image.
        ids: "set:name" of each image.
        classifies: True for classification, False for retrieval.
    """

    images: Tensor
    captions: tuple[str, ...]
    labels: Tensor
    ids: tuple[str, ...]
    classifies: bool = False


def evaluation_set(data: Path | str, name: str) -> EvaluationSet:
    """Read a held-out split of a built dataset, or a set derived from one.

    Args:
        data: what `recipes.pocket.build` wrote.
        name: one of `ALL_SETS`.

    Raises:
        ValueError: if the dataset holds no such split.
    """
    import pyarrow.parquet as pq

    data, split = Path(data), "twemoji" if name in (KEYWORDS, SUBGROUPS) else name
    columns = ["id", "kind", "row", "name", "concept", "keywords", "subgroup"]
    table = pq.read_table(
        data / "table.parquet", columns=columns, filters=[("split", "=", split)]
    ).to_pylist()
    if not table:
        raise ValueError(f"{data / 'table.parquet'} has no split {split!r}; known are {', '.join(SPLITS)}")
    if name == SUBGROUPS:
        table = [row for row in table if row["subgroup"] in EVALUATED]
    images, ids = _images(data, table), tuple(row["id"] for row in table)
    if name == KEYWORDS:
        queries = [keyword_query(row["name"], row["keywords"]) for row in table]
        found = [place for place, query in enumerate(queries) if query]
        return EvaluationSet(images, tuple(queries[place] for place in found), torch.tensor(found), ids)
    if name == SUBGROUPS:
        places = torch.tensor([EVALUATED.index(row["subgroup"]) for row in table])
        return EvaluationSet(images, tuple(PHRASES[key][0] for key in EVALUATED), places, ids, True)
    if name == "unseen":
        words = tuple(sorted({row["concept"] for row in table}))
        labels = torch.tensor([words.index(row["concept"]) for row in table])
        return EvaluationSet(images, words, labels, ids, True)
    return EvaluationSet(images, tuple(row["name"] for row in table), torch.arange(len(images)), ids)


def keyword_query(name: str, keywords: Sequence[str]) -> str:
    """Return three keywords of an image, chosen by their hashes; "" if it has fewer.

    Keywords that share a word with the name are left out.
    """
    known = set(words_of(name))
    others = [word for word in keywords if known.isdisjoint(words_of(word))]
    chosen = sorted(others, key=lambda word: hashlib.sha256(f"{name}:{word}".encode()).digest())
    return ", ".join(chosen[:KEYWORDS_A_QUERY]) if len(chosen) >= KEYWORDS_A_QUERY else ""


def _images(data: Path, table: Sequence[Mapping[str, Any]]) -> Tensor:
    """Read (N, 3, 64, 64) uint8 images of rows of the table."""
    images = torch.empty(len(table), 3, 64, 64, dtype=torch.uint8)
    for kind in ("mono", "colour"):
        places = [place for place, row in enumerate(table) if row["kind"] == kind]
        if places:
            stored = np.load(data / f"{kind}.npy", mmap_mode="r")
            images[places] = draw_plain(torch.from_numpy(stored[[table[place]["row"] for place in places]]))
    return images


def write_sample(data: Path, path: Path = SAMPLE_FILE) -> None:
    """Write the sample for continuous integration: evenly spaced images of three splits.

    Images lie side by side in one PNG a split, which holds them exactly in a fifth of the bytes.
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
    """Read the committed sample, by split."""
    with np.load(path, allow_pickle=False) as stored:
        sets = {}
        for split in SAMPLE:
            captions = tuple(stored[f"{split}.captions"].tolist())
            images = torch.from_numpy(_from_png(stored[f"{split}.png"].tobytes(), len(captions)))
            ids = tuple(stored[f"{split}.ids"].tolist())
            sets[split] = EvaluationSet(images, captions, torch.arange(len(captions)), ids)
    return sets


def _to_png(images: NDArray[np.uint8]) -> bytes:
    """Encode (N, 3, 64, 64) images as one tall PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(images.transpose(0, 2, 3, 1).reshape(-1, 64, 3)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _from_png(data: bytes, count: int) -> NDArray[np.uint8]:
    from PIL import Image

    sheet = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return np.ascontiguousarray(sheet.reshape(count, 64, 64, 3).transpose(0, 3, 1, 2))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder made by recipes.pocket.build")
    args = parser.parse_args()
    write_sample(args.data)
    print(f"{SAMPLE_FILE.name}: {SAMPLE_FILE.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
