"""Training batches from the dataset on disk. Each is a pure function of (seed, step), so resuming is exact.

Shapes: B batch, S image side.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.pocket.captions import (
    EMOJI_SETS,
    CaptionMixer,
    Describer,
    Description,
    group_key,
    may_mirror,
    style_of,
)
from recipes.pocket.drawing import Augmentation, draw_batch

SPARE = 1.3
"""Names drawn for each place in a batch; those that clash with aliases of other names are skipped."""


class Descriptions(NamedTuple):
    """Captions without names, for images of a batch that have words for them."""

    texts: list[str]  # M texts
    owners: Tensor  # (M,) int64, the image of each text
    also_fits: Tensor  # (M, B) bool, other images that each text also fits


class PocketBatches:
    """Training batches; names are unique within a batch.

    Args:
        data_dir: what `recipes.pocket.build` wrote.
        batch_size: B.
        image_size: S, 32 or 64.
        seed: with the step, all that a batch depends on.
        tokenizer: turns a list of captions into ids; without one, batches hold the captions themselves.
        colour_weight: how often colour images are drawn, relative to one-colour images.
        emoji_weight: how often emoji are drawn, relative to other images.
        in_memory: read the images into memory (1.5 GB) instead of mapping the files.
    """

    def __init__(
        self,
        data_dir: Path | str,
        batch_size: int,
        image_size: int,
        seed: int = 0,
        tokenizer: Callable[[list[str]], Tensor] | None = None,
        *,
        colour_weight: float = 2.0,
        emoji_weight: float = 1.0,
        mixer: CaptionMixer | None = None,
        describer: Describer | None = None,
        augmentation: Augmentation | None = None,
        in_memory: bool = False,
    ) -> None:
        data_dir = Path(data_dir)
        self.batch_size, self.image_size, self.seed, self.tokenizer = batch_size, image_size, seed, tokenizer
        self.mixer = mixer or CaptionMixer()
        self.describer = describer or Describer()
        self.augmentation = augmentation or Augmentation()
        mode: Literal["r"] | None = None if in_memory else "r"
        self.mono: NDArray[np.uint8] = np.load(data_dir / "mono.npy", mmap_mode=mode)
        self.colour: NDArray[np.uint8] = np.load(data_dir / "colour.npy", mmap_mode=mode)
        self._read_table(data_dir / "table.parquet", colour_weight, emoji_weight)
        if len(self.name_rate) < SPARE * batch_size:
            raise ValueError(
                f"a batch of {batch_size} needs {SPARE * batch_size:.0f} names; {len(self.name_rate)} found"
            )

    def _read_table(self, path: Path, colour_weight: float, emoji_weight: float) -> None:
        table = pq.read_table(path, filters=[("split", "=", "train")])
        column: dict[str, list[Any]] = table.to_pydict()
        order = np.argsort(np.array(column["name"]), kind="stable")  # images of one name are adjacent
        names = np.array(column["name"])[order]
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
        pick = order.tolist()
        self.names: list[str] = names.tolist()
        self.aliases = [column["aliases"][i] for i in pick]
        self.keywords = [column["keywords"][i] for i in pick]
        self.category = [column["category"][i] for i in pick]
        self.subgroup = [column["subgroup"][i] for i in pick]
        self.style = [style_of(column["id"][i], column["kind"][i]) for i in pick]
        self.row = np.array(column["row"], dtype=np.int64)[order]
        self.is_colour = np.array([column["kind"][i] == "colour" for i in pick])
        self.mirrors = np.repeat(
            [may_mirror(self.names[start]) for start in starts], np.diff(np.r_[starts, len(pick)])
        )
        is_emoji = np.array([column["set"][i] in EMOJI_SETS for i in pick])
        weight = np.array(column["weight"], dtype=np.float64)[order]
        weight *= np.where(self.is_colour, colour_weight, 1.0) * np.where(is_emoji, emoji_weight, 1.0)
        self.cumulative = np.r_[0.0, np.cumsum(weight)]
        self.starts, self.ends = starts, np.r_[starts[1:], len(pick)]
        total = self.cumulative[self.ends] - self.cumulative[self.starts]
        self.name_rate = total / np.sqrt(
            self.ends - self.starts
        )  # limits the share of names with many styles

    def __len__(self) -> int:
        """Return the number of training images."""
        return len(self.names)

    def batch(self, step: int) -> tuple[Tensor, Any]:
        """Return the batch of one step.

        Returns:
            (B, 3, S, S) uint8 images, and the captions: ids if there is a tokenizer, else a list of str.
        """
        images, texts, _ = self.described_batch(step)
        return images, texts if self.tokenizer is None else self.tokenizer(texts)

    def described_batch(self, step: int) -> tuple[Tensor, list[str], Descriptions]:
        """Return the batch of one step, with a second caption for images that have words for it."""
        rng = np.random.default_rng([self.seed, step])
        picks = self.choose(rng)
        texts = self.write_captions(picks, rng)
        images = self.draw(picks, rng)
        return images, texts, self.describe(picks, rng)

    def choose(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose (B,) images without common names or aliases."""
        keys = rng.exponential(size=len(self.name_rate)) / self.name_rate  # weighted, without replacement
        count = int(SPARE * self.batch_size)
        groups = np.argpartition(keys, count)[:count]
        groups = groups[np.argsort(keys[groups])]
        low, high = self.cumulative[self.starts[groups]], self.cumulative[self.ends[groups]]
        at = low + rng.random(count) * (high - low)
        found = np.searchsorted(self.cumulative, at, side="right") - 1
        candidates = np.clip(found, self.starts[groups], self.ends[groups] - 1)
        used: set[str] = set()
        picks: list[int] = []
        for index in candidates.tolist():
            words = {self.names[index], *self.aliases[index]}
            if used.isdisjoint(words):
                used |= words
                picks.append(index)
                if len(picks) == self.batch_size:
                    break
        if len(picks) < self.batch_size:
            raise ValueError(f"only {len(picks)} of {self.batch_size} images have a unique name")
        return np.array(picks, dtype=np.int64)

    def write_captions(self, picks: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
        """Return a caption for each image. If it would also fit another image, the name is used."""
        draws = rng.random((len(picks), 6))
        owner = {
            word: index for index in picks.tolist() for word in (self.names[index], *self.aliases[index])
        }
        taken: set[str] = set()
        texts = []
        for index, draw in zip(picks.tolist(), draws, strict=True):
            words = (self.names[index], self.aliases[index], self.keywords[index], self.category[index])
            text = self.mixer.caption(*words, self.style[index], draw)
            if text in taken or owner.get(text, index) != index:
                text = self.names[index]
            taken.add(text)
            texts.append(text)
        return texts

    def describe(self, picks: NDArray[np.int64], rng: np.random.Generator) -> Descriptions:
        """Return captions without names. If two images get the same text, the first keeps it."""
        draws = rng.random((len(picks), 7))
        found: dict[str, tuple[int, Description]] = {}
        for place, (index, draw) in enumerate(zip(picks.tolist(), draws, strict=True)):
            description = self.describer.describe(self.keywords[index], self.subgroup[index], draw)
            if description is not None:
                found.setdefault(description.text, (place, description))
        having: dict[str, set[int]] = defaultdict(set)  # places by word
        for place, index in enumerate(picks.tolist()):
            own = (self.names[index], *self.aliases[index], *self.keywords[index])
            for word in (*own, group_key(self.subgroup[index])):
                having[word].add(place)
        also_fits = torch.zeros(len(found), len(picks), dtype=torch.bool)
        for row, (place, description) in enumerate(found.values()):
            others = set.intersection(*(having[word] for word in description.words)) - {place}
            also_fits[row, list(others)] = True
        owners = torch.tensor([place for place, _ in found.values()], dtype=torch.int64)
        return Descriptions(list(found), owners, also_fits)

    def draw(self, picks: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Draw (B, 3, S, S) uint8 images with random colours, positions and rotations."""
        is_colour = self.is_colour[picks]
        mono = torch.from_numpy(self.mono[np.ascontiguousarray(self.row[picks[~is_colour]])])
        colour = torch.from_numpy(self.colour[np.ascontiguousarray(self.row[picks[is_colour]])])
        mirrors = torch.from_numpy(self.mirrors[picks])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return draw_batch(
            mono, colour, torch.from_numpy(is_colour), mirrors, self.image_size, self.augmentation, generator
        )
