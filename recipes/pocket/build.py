"""Build the dataset from packages: `python -m recipes.pocket.build --out DIR [--cache DIR]`.

Writes `mono.npy` (N, 64, 64) alpha, `colour.npy` (M, 64, 64, 4) straight RGBA, and `table.parquet`
with a row for each image. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recipes.pocket.catalogue import HELD_OUT_SETS
from recipes.pocket.near_copies import THRESHOLD, best_match, descriptors
from recipes.pocket.notice import write_notice
from recipes.pocket.render import SIZE, render_all
from recipes.pocket.source_images import SourceImage, common_words, list_images
from recipes.pocket.sources import fetch_sources
from recipes.pocket.split import SPLIT_FILE, Split, is_trainable, make_split
from recipes.pocket.words import read_keywords

KINDS = {"mono": (SIZE, SIZE), "colour": (SIZE, SIZE, 4)}
NEARLY_BLANK = 64 * 255
"""Drawings with a smaller sum of alpha count as blank: 64 of 4,096 pixels."""


class Drawn:
    """Images with their pixels, in chunks on disk, without blank images and duplicates.

    Attributes:
        images: those that are left, in order.
        where: for each, (chunk file, row in it).
    """

    def __init__(self) -> None:
        self.images: list[SourceImage] = []
        self.where: list[tuple[Path, int]] = []
        self.blank = 0
        self.repeated = 0
        self._seen: set[tuple[str, bytes]] = set()

    def add(self, images: list[SourceImage], file: Path) -> None:
        """Add the drawn images of one chunk."""
        pixels = np.load(file, mmap_mode="r")
        for row, image in enumerate(images):
            drawing = pixels[row]
            alpha = drawing if drawing.ndim == 2 else drawing[..., 3]
            if int(alpha.sum(dtype=np.int64)) < NEARLY_BLANK:
                self.blank += 1
                continue
            key = (image.name, hashlib.blake2b(drawing.tobytes(), digest_size=12).digest())
            if key in self._seen and image.set not in HELD_OUT_SETS:
                self.repeated += 1
                continue
            self._seen.add(key)
            self.images.append(image)
            self.where.append((file, row))

    def pixels(self, indices: list[int], kind: str) -> NDArray[np.uint8]:
        """Return (len(indices), 64, 64[, 4]) pixels of images of one kind."""
        out = np.empty((len(indices), *KINDS[kind]), np.uint8)
        opened: dict[Path, NDArray[np.uint8]] = {}
        for position, index in enumerate(indices):
            file, row = self.where[index]
            if file not in opened:
                opened = {file: np.load(file)}
            out[position] = opened[file][row]
        return out

    def alpha(self, indices: list[int]) -> NDArray[np.uint8]:
        """Return (len(indices), 64, 64) alpha of images of any kind; `indices` must be in the order of chunks."""
        out = np.empty((len(indices), SIZE, SIZE), np.uint8)
        for kind in KINDS:
            positions = [place for place, index in enumerate(indices) if self.images[index].kind == kind]
            pixels = self.pixels([indices[place] for place in positions], kind)
            out[positions] = pixels if kind == "mono" else pixels[..., 3]
        return out


def draw(
    images: list[SourceImage], folders: dict[str, Path], chunks: Path, workers: int, console: Console
) -> Drawn:
    """Draw all images, with a progress bar."""
    drawn = Drawn()
    columns = (
        TextColumn("drawing {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        for kind in KINDS:
            of_kind = [image for image in images if image.kind == kind]
            task = progress.add_task(kind, total=len(of_kind))
            done = 0
            for count, file in render_all(of_kind, folders, chunks, workers):
                drawn.add(of_kind[done : done + count], file)
                done += count
                progress.update(task, completed=done)
    return drawn


def find_near_copies(drawn: Drawn, threshold: float = THRESHOLD) -> set[str]:
    """Return ids of held-out Phosphor and Health icons that have a near-copy among the training images."""
    queries = [i for i, image in enumerate(drawn.images) if image.set in {"ph", "healthicons"}]
    pool = [i for i, image in enumerate(drawn.images) if is_trainable(image, set())]
    value, _ = best_match(descriptors(drawn.alpha(queries)), descriptors(drawn.alpha(pool)))
    return {drawn.images[i].id for i, score in zip(queries, value.tolist(), strict=True) if score > threshold}


def assign(images: list[SourceImage], split: Split) -> list[str]:
    """Return the split of each image, or ""."""
    of_id = {identifier: name for name, ids in split.held_out.items() for identifier in ids}
    titles = set(split.clip_art_titles)
    return [of_id.get(p.id) or ("train" if is_trainable(p, titles) else "") for p in images]


def write_dataset(drawn: Drawn, split: Split, out: Path) -> Counter[str]:
    """Write the arrays and the table, and return the number of images in each split."""
    splits = assign(drawn.images, split)
    rows: list[dict[str, object]] = []
    for kind, shape in KINDS.items():
        indices = [i for i, p in enumerate(drawn.images) if p.kind == kind and splits[i]]
        half = out / f"{kind}.part.npy"
        array = np.lib.format.open_memmap(half, mode="w+", dtype=np.uint8, shape=(len(indices), *shape))
        for start in range(0, len(indices), 4096):
            array[start : start + 4096] = drawn.pixels(indices[start : start + 4096], kind)
        array.flush()
        half.rename(out / f"{kind}.npy")
        for row, index in enumerate(indices):
            p = drawn.images[index]
            rows.append(
                {
                    "id": p.id, "kind": kind, "row": row, "set": p.set, "licence": p.licence, "name": p.name,
                    "aliases": p.aliases, "keywords": p.keywords, "category": p.category, "weight": p.weight,
                    "split": splits[index], "concept": split.concepts.get(p.id, ""), "subgroup": p.subgroup,
                }
            )  # fmt: skip
    schema = pa.schema(
        [(name, pa.string()) for name in ("id", "kind")]
        + [("row", pa.int32())]
        + [(name, pa.string()) for name in ("set", "licence", "name")]
        + [(name, pa.list_(pa.string())) for name in ("aliases", "keywords")]
        + [
            ("category", pa.string()),
            ("weight", pa.float32()),
            ("split", pa.string()),
            ("concept", pa.string()),
            ("subgroup", pa.string()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / "table.part", compression="zstd")
    (out / "table.part").rename(out / "table.parquet")
    return Counter(str(row["split"]) for row in rows)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--cache", type=Path, help="folder of the packages (default: OUT/cache)")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw")
    parser.add_argument(
        "--make-split", action="store_true", help="decide the split anew instead of reading it"
    )
    args = parser.parse_args()
    console, start = Console(), time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    folders = fetch_sources(args.cache or args.out / "cache", console.print)
    images = list(list_images(folders, read_keywords(folders), common_words(folders["wordnet"])))
    console.print(f"{len(images):,} images, {len({p.name for p in images}):,} names")
    drawn = draw(images, folders, args.out / "chunks", args.workers, console)
    console.print(f"dropped {drawn.blank:,} blank and {drawn.repeated:,} repeated drawings")
    if args.make_split or not SPLIT_FILE.exists():
        make_split(drawn.images, find_near_copies(drawn)).write(SPLIT_FILE)
    counts = write_dataset(drawn, Split.read(SPLIT_FILE), args.out)
    write_notice(args.out / "table.parquet", folders["iconify"])
    for name, count in counts.most_common():
        console.print(f"{name:12} {count:>8,}")
    console.print(f"done in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
