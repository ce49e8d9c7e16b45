"""Pictures to splits: what is trained on, what is held out, decided once and kept in `split.json.gz`.

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
from recipes.pocket.pictures import Picture

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
    """Who is held out.

    Attributes:
        held_out: split to the ids of its pictures.
        concepts: id of each picture of `unseen` to its word.
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
        """Read what `write` wrote."""
        return Split(**json.loads(gzip.decompress(path.read_bytes())))


def concept_of(name: str, aliases: Iterable[str], keywords: Iterable[str]) -> str:
    """The unseen word that a picture's words mention, or ""."""
    return next((found for text in (name, *aliases, *keywords) if (found := mentions(text, FORMS))), "")


def is_trainable(picture: Picture, held_out_titles: set[str]) -> bool:
    """Whether a picture may be trained on: no held-out set, title or word."""
    if picture.set in HELD_OUT_SETS:
        return False
    if picture.set == "openclipart" and picture.name in held_out_titles:
        return False
    words = (*picture.aliases, *picture.keywords, picture.category)
    return not concept_of(picture.name, words, ())


def make_split(pictures: Sequence[Picture], near_copies: set[str]) -> Split:
    """Decide the split.

    Args:
        pictures: all that could be drawn, held out or not.
        near_copies: ids of held-out pictures that have a near-copy in training.
    """
    titles = sorted(
        {
            picture.name
            for picture in pictures
            if picture.set == "openclipart" and _is_held_out_title(picture.name)
        }
    )
    held_out: dict[str, list[str]] = defaultdict(list)
    taken: set[tuple[str, str]] = set()
    for picture in pictures:
        split = HELD_OUT_SETS.get(picture.set, "")
        if picture.set == "openclipart" and picture.name in set(titles):
            split = "openclipart"
        if split and picture.id not in near_copies and (split, picture.name) not in taken:
            taken.add((split, picture.name))
            held_out[split].append(picture.id)
    concepts = _unseen(pictures)
    held_out["unseen"] = sorted(concepts)
    return Split(dict(held_out), concepts, titles)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{SEED}:{text}".encode()).digest()[:8], "big")


def _is_held_out_title(title: str) -> bool:
    return _hash(title) % CLIP_ART_SHARE == 0


def _unseen(pictures: Sequence[Picture]) -> dict[str, str]:
    """Up to forty pictures a word whose main name is that word, at most two from a set."""
    found: dict[str, list[Picture]] = defaultdict(list)
    for picture in pictures:
        if picture.name in FORMS and picture.set not in HELD_OUT_SETS:
            found[FORMS[picture.name]].append(picture)
    concepts: dict[str, str] = {}
    for word, candidates in found.items():
        per_set: Counter[str] = Counter()
        kept = 0
        for picture in sorted(candidates, key=lambda picture: _hash(picture.id)):
            if per_set[picture.set] < UNSEEN_PER_SET and kept < UNSEEN_PER_WORD:
                per_set[picture.set] += 1
                kept += 1
                concepts[picture.id] = word
    return concepts
