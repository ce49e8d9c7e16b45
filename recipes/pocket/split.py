"""Split of the images into training and held-out sets, decided once and stored in `split.json.gz`.

Held out are two whole emoji styles, Phosphor and Health Icons less near-copies of what is trained on,
a tenth of Open Clip Art by title, and thirty words that no caption in training contains.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes.pocket.catalogue import HELD_OUT_SETS
from recipes.pocket.names import mentions, plural_forms
from recipes.pocket.source_images import SourceImage

SPLIT_FILE = Path(__file__).with_name("split.json.gz")
SEED = "oneclip-pocket-1"
CLIP_ART_SHARE = 10
UNSEEN_PER_WORD = 40
UNSEEN_PER_SET = 2

UNSEEN_WORDS = (
    "banana", "bicycle", "butterfly", "cactus", "candle", "carrot", "castle", "croissant", "elephant",
    "guitar", "hammer", "helicopter", "lighthouse", "microscope", "mushroom", "octopus", "piano", "pizza",
    "rabbit", "scissors", "snail", "snowman", "telescope", "tractor", "turtle", "umbrella", "violin",
    "watermelon", "whale", "windmill",
)  # fmt: skip

FORMS = {form: word for word in UNSEEN_WORDS for form in plural_forms(word)}


@dataclass(frozen=True)
class Split:
    """Held-out images, concepts and titles.

    Attributes:
        held_out: ids of the images of each split.
        concepts: id of each image of `unseen` to its word.
        clip_art_titles: titles of Open Clip Art that are not trained on.
    """

    held_out: dict[str, list[str]]
    concepts: dict[str, str]
    clip_art_titles: list[str]

    def write(self, path: Path) -> None:
        """Write as compressed JSON, the same bytes for the same split."""
        text = json.dumps(
            {"held_out": self.held_out, "concepts": self.concepts, "clip_art_titles": self.clip_art_titles},
            indent=0, sort_keys=True, ensure_ascii=False,
        )  # fmt: skip
        path.write_bytes(gzip.compress(text.encode(), mtime=0))

    @staticmethod
    def read(path: Path) -> Split:
        """Read the file of `write`."""
        return Split(**json.loads(gzip.decompress(path.read_bytes())))


def concept_of(name: str, aliases: Iterable[str], keywords: Iterable[str]) -> str:
    """Return the unseen word among the words of an image, or ""."""
    return next((found for text in (name, *aliases, *keywords) if (found := mentions(text, FORMS))), "")


def is_trainable(image: SourceImage, held_out_titles: set[str]) -> bool:
    """Return True for a training image: it has no held-out set, title or word."""
    if image.set in HELD_OUT_SETS:
        return False
    if image.set == "openclipart" and image.name in held_out_titles:
        return False
    words = (*image.aliases, *image.keywords, image.category)
    return not concept_of(image.name, words, ())


def make_split(images: Sequence[SourceImage], near_copies: set[str]) -> Split:
    """Decide the split.

    Args:
        images: all that could be drawn, held out or not.
        near_copies: ids of held-out images that have a near-copy in training.
    """
    titles = sorted(
        {image.name for image in images if image.set == "openclipart" and _is_held_out_title(image.name)}
    )
    held_out: dict[str, list[str]] = defaultdict(list)
    taken: set[tuple[str, str]] = set()
    for image in images:
        split = HELD_OUT_SETS.get(image.set, "")
        if image.set == "openclipart" and image.name in set(titles):
            split = "openclipart"
        if split and image.id not in near_copies and (split, image.name) not in taken:
            taken.add((split, image.name))
            held_out[split].append(image.id)
    concepts = _unseen(images)
    held_out["unseen"] = sorted(concepts)
    return Split(dict(held_out), concepts, titles)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{SEED}:{text}".encode()).digest()[:8], "big")


def _is_held_out_title(title: str) -> bool:
    return _hash(title) % CLIP_ART_SHARE == 0


def _unseen(images: Sequence[SourceImage]) -> dict[str, str]:
    """Return up to forty images for each word that have it as main name, at most two from a set."""
    found: dict[str, list[SourceImage]] = defaultdict(list)
    for image in images:
        if image.name in FORMS and image.set not in HELD_OUT_SETS:
            found[FORMS[image.name]].append(image)
    concepts: dict[str, str] = {}
    for word, candidates in found.items():
        per_set: Counter[str] = Counter()
        kept = 0
        for image in sorted(candidates, key=lambda image: _hash(image.id)):
            if per_set[image.set] < UNSEEN_PER_SET and kept < UNSEEN_PER_WORD:
                per_set[image.set] += 1
                kept += 1
                concepts[image.id] = word
    return concepts
