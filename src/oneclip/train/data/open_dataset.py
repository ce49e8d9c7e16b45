"""Open training data by name: a table, tars, a Hugging Face dataset, a folder of classes, or synthetic data."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.image_folder import has_classes
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES
from oneclip.hub.addresses import expand_pattern, is_address
from oneclip.hub.dataset_rows import has_image_column, is_dataset
from oneclip.hub.file_types import TAR_SUFFIXES
from oneclip.hub.pairs import is_pairs_table, read_pairs
from oneclip.hub.tables import PARQUET_SUFFIXES
from oneclip.progress import Progress
from oneclip.text.prompts import Template
from oneclip.train.data.dataset import PairDataset
from oneclip.train.data.hf_dataset import HFDataset
from oneclip.train.data.image_folder import ImageFolderDataset
from oneclip.train.data.mixture import MixtureDataset
from oneclip.train.data.pairs_table import TableDataset
from oneclip.train.data.synthetic import SyntheticDataset
from oneclip.train.data.webdataset import WebDataset

SYNTHETIC = "synthetic:"
_WEIGHT = re.compile(r"@(\d+(?:\.\d+)?|\.\d+)$")
_EXPECTED = (
    "expected a table (.csv, .tsv, .parquet), tars (shard-{000..009}.tar, a path or an address), a folder of tars, a "
    "dataset written by `save_to_disk`, Parquet files, a folder with one subfolder of images per class, or "
    "synthetic:COUNT"
)


def open_dataset(
    sources: str | Sequence[str],
    *,
    images: str | Path | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    separator: str | None = None,
    split: str | None = None,
    skip_missing: bool = False,
    by_image: bool = False,
    templates: Sequence[Template] = SIMPLE_TEMPLATES,
    progress: Progress = False,
) -> PairDataset:
    """Detect the kind of each source, and open it.

    Args:
        sources: one or several, with or without a weight: `a.csv` or `a.csv@2`. Sources without weights are
            concatenated; with weights, each has its fixed share of every batch.
        images: the folder that paths in tables are relative to; the table's own folder by default.
        image_column, caption_column: of tables ("filepath" and "caption" by default) and Hugging Face datasets
            (detected by their usual names). For tars, `caption_column` is the file type of the captions: "txt",
            "json" or "json:field" ("txt" by default).
        separator: between the columns of a CSV file; detected by default.
        split: of a Hugging Face dataset; "train" by default.
        skip_missing: leave out missing or truncated files, instead of raising.
        by_image: combine the rows of a table that have the same image into one sample with several captions.
        templates: prompts for the classes of a folder of classes.
        progress: of indexing tars; see `oneclip.progress.reporting`.

    Raises:
        DataError: if a source is of no known kind, or cannot be used.
        ConfigError: if only some of the sources have weights.
    """
    specs = [sources] if isinstance(sources, str) else list(sources)
    if not specs:
        raise DataError(f"no training data given; {_EXPECTED}")
    weighted = [_split_weight(spec) for spec in specs]
    weights = [weight for _, weight in weighted if weight is not None]
    if weights and len(weights) < len(specs):
        raise ConfigError(
            f"some of {', '.join(specs)} have a weight (@2) and some do not; give every source a weight, or none"
        )

    def open_one(place: str) -> PairDataset:
        if place.startswith(SYNTHETIC):
            return _open_synthetic(place)
        tars = _list_tars(place)
        if tars:
            kind, _, field = (caption_column or "txt").partition(":")
            return WebDataset(
                tars, captions=kind, field=field or "caption", skip_broken=skip_missing, progress=progress
            )
        path = Path(place)
        if not is_address(place) and (
            (path.is_dir() and is_dataset(path)) or _is_image_parquet(path, image_column)
        ):
            return HFDataset(path, split=split, image_column=image_column, caption_column=caption_column)
        if not is_address(place) and path.is_dir() and has_classes(path):
            return ImageFolderDataset(path, templates)
        if not is_pairs_table(place) or is_address(place) or path.is_dir():
            problem = "is a folder without training data" if path.is_dir() else "has an unknown format"
            raise DataError(f"{place} {problem}; {_EXPECTED}")
        pairs = read_pairs(
            path,
            image_column=image_column or "filepath",
            caption_column=caption_column or "caption",
            separator=separator,
        )
        folder = path.parent if images is None else images
        return TableDataset(pairs, folder, skip_missing=skip_missing, by_image=by_image)

    places = [place for place, _ in weighted]
    opened = [open_one(place) for place in places]
    return opened[0] if len(opened) == 1 else MixtureDataset(opened, weights or None, places)


def _split_weight(spec: str) -> tuple[str, float | None]:
    """Split a source into place and weight. A file whose own name ends like a weight has none."""
    match = _WEIGHT.search(spec)
    if match is None or (not is_address(spec) and os.path.exists(spec)):
        return spec, None
    return spec[: match.start()], float(match[1])


def _list_tars(place: str) -> list[str]:
    """Return the tars that a path, pattern or folder names; empty if it names none."""
    if place.lower().endswith(TAR_SUFFIXES):
        return expand_pattern(place)
    if not is_address(place) and Path(place).is_dir() and not (Path(place) / "state.json").is_file():
        return sorted(glob.glob(f"{glob.escape(place)}/*.tar"))
    return []


def _is_image_parquet(path: Path, column: str | None) -> bool:
    return path.suffix.lower() in PARQUET_SUFFIXES and path.is_file() and has_image_column(path, column)


def _open_synthetic(place: str) -> PairDataset:
    count = place[len(SYNTHETIC) :].replace("_", "")
    if not count.isdecimal():
        raise DataError(f"cannot read {place}; expected synthetic:COUNT, such as synthetic:10000")
    return SyntheticDataset(int(count))
