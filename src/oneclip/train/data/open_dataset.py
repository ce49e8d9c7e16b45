"""A word on a command line to samples: a table, tars, a dataset, or something synthetic."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.image_folder import has_classes
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.hub.addresses import expand, is_address
from oneclip.hub.file_types import TAR_SUFFIXES
from oneclip.hub.pairs import is_table, read_table
from oneclip.hub.tables import PARQUET_SUFFIXES
from oneclip.progress import Progress
from oneclip.text.prompts import Template
from oneclip.train.data.class_folder import ClassSamples
from oneclip.train.data.hf_dataset import DatasetSamples, holds_pictures, is_dataset
from oneclip.train.data.mixture import Mixture
from oneclip.train.data.pairs_table import TableSamples
from oneclip.train.data.samples import Samples
from oneclip.train.data.synthetic import SyntheticSamples
from oneclip.train.data.webdataset import ShardSamples

SYNTHETIC = "synthetic:"
_WEIGHT = re.compile(r"@(\d+(?:\.\d+)?|\.\d+)$")
_EXPECTED = (
    "expected a table (.csv, .tsv, .parquet), tars (shard-{000..009}.tar, also behind an address), a folder of tars, "
    "a dataset that `save_to_disk` wrote or one of Parquet files, a folder with a folder of images for each class, "
    "or synthetic:COUNT"
)


def open_samples(
    sources: str | Sequence[str],
    *,
    images: str | Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    separator: str | None = None,
    split: str | None = None,
    skip: bool = False,
    by_picture: bool = False,
    templates: Sequence[Template] = SIMPLE_TEMPLATES,
    progress: Progress = False,
) -> Samples:
    """Say what each source is, and open it.

    Args:
        sources: one or several, each with or without a weight: `a.csv` or `a.csv@2`. Several without weights are
            one after the other; with them each has its share of every batch.
        images: the folder that paths in tables are relative to; by default that of the table.
        image_column, caption_column: of tables ("filepath" and "caption" by default) and datasets (found by their
            usual names). For tars the latter is the kind of member that has captions: "txt", "json", or
            "json:field" ("txt" by default).
        separator: between columns of a CSV file; found out by default.
        split: of a dataset; "train" by default.
        skip: leave out what is missing or cut short, instead of raising.
        by_picture: make the rows of a table that have the same picture one sample with several captions.
        templates: prompts for the classes of a folder of classes.
        progress: of indexing tars, as `oneclip.progress.reporting` takes it.

    Raises:
        DataError: if a source is none of these, or cannot be used.
        ConfigError: if only some have weights.
    """
    words = [sources] if isinstance(sources, str) else list(sources)
    split_words = [_weighted(word) for word in words]

    def meaning(place: str) -> Samples:
        if place.startswith(SYNTHETIC):
            return _synthetic(place)
        tars = _tars(place)
        if tars:
            kind, _, field = (caption_column or "txt").partition(":")
            return ShardSamples(
                tars, captions=kind, field=field or "caption", skip_broken=skip, progress=progress
            )
        path = Path(place)
        if not is_address(place) and (
            (path.is_dir() and is_dataset(path)) or _has_pictures(path, image_column)
        ):
            return DatasetSamples(path, split=split, image_column=image_column, caption_column=caption_column)
        if not is_address(place) and path.is_dir() and has_classes(path):
            return ClassSamples(path, templates)
        if not is_table(place) or is_address(place) or path.is_dir():
            what = "is a folder without any" if path.is_dir() else "is none that is known"
            raise DataError(f"the data {place} {what}; {_EXPECTED}")
        pairs = read_table(
            path,
            image_column=image_column or "filepath",
            caption_column=caption_column or "caption",
            separator=separator,
        )
        folder = path.parent if images is None else images
        return TableSamples(pairs, folder, skip_missing=skip, by_picture=by_picture)

    if not words:
        raise DataError(f"no data given; {_EXPECTED}")
    weights = [weight for _, weight in split_words]
    if None in weights and any(weight is not None for weight in weights):
        raise ConfigError(
            f"some of {', '.join(words)} have weights (@2) and some have none; give all of them one"
        )
    opened = [meaning(place) for place, _ in split_words]
    if len(opened) == 1:
        return opened[0]
    names = [place for place, _ in split_words]
    return Mixture(opened, [weight for weight in weights if weight is not None] or None, names)


def _weighted(word: str) -> tuple[str, float | None]:
    """A source and its weight; a file whose name ends like a weight is a file."""
    match = _WEIGHT.search(word)
    if match is None or (not is_address(word) and os.path.exists(word)):
        return word, None
    return word[: match.start()], float(match[1])


def _tars(place: str) -> list[str]:
    """The tars that a place means, if it means some."""
    if place.lower().endswith(TAR_SUFFIXES):
        return expand(place)
    if not is_address(place) and Path(place).is_dir() and not (Path(place) / "state.json").is_file():
        return sorted(glob.glob(f"{glob.escape(place)}/*.tar"))
    return []


def _has_pictures(path: Path, column: str | None) -> bool:
    return path.suffix.lower() in PARQUET_SUFFIXES and path.is_file() and holds_pictures(path, column)


def _synthetic(place: str) -> Samples:
    count = place[len(SYNTHETIC) :].replace("_", "")
    if not count.isdecimal():
        raise DataError(f"{place}: expected synthetic:COUNT, such as synthetic:10000")
    return SyntheticSamples(int(count))
