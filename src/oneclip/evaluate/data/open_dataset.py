"""Open a data set from a path, an address or a name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from oneclip.errors import DataError
from oneclip.evaluate.data.caption_pairs import (
    EXAMPLES,
    SUGAR_CREPE_KINDS,
    find_sugar_crepe,
    find_winoground,
    open_sugar_crepe,
    open_winoground,
)
from oneclip.evaluate.data.class_files import ClassSource, read_class_names, read_prompts, rename_classes
from oneclip.evaluate.data.class_folders import open_class_folders
from oneclip.evaluate.data.dataset import EvaluationDataset, Templates
from oneclip.evaluate.data.hf_datasets import is_image_parquet, open_hf_dataset
from oneclip.evaluate.data.remote_files import FindFile, files_at_address, files_in_folder, files_on_hub
from oneclip.evaluate.data.tables import TableColumns, open_table
from oneclip.evaluate.data.webdataset_folders import has_webdataset_folders, open_webdataset_folders
from oneclip.evaluate.image_folder import class_folders, has_classes
from oneclip.hub.addresses import is_address
from oneclip.hub.dataset_rows import is_dataset
from oneclip.hub.pairs import is_pairs_table
from oneclip.hub.tables import PARQUET_SUFFIXES

HUB_OWNER = "clip-benchmark"
_HUB_PAGE = re.compile(
    r"(?:https?://huggingface\.co/|hf://)datasets/([^/]+/[^/@]+)(?:(?:/tree/|/resolve/|@)(.+))?"
)
_HUB_NAME = re.compile(r"[\w.-]+/wds_[\w.-]+")
EXPECTED = (
    "expected a folder of classes, a table (.csv, .tsv, .parquet), a folder or an address in CLIP_benchmark's "
    "webdataset layout, wds/NAME for one of the hub, a Hugging Face dataset on disk, or a folder of Winoground or "
    "SugarCrepe"
)


def open_dataset(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    classes: ClassSource | None = None,
    templates: Templates | str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    separator: str | None = None,
    skip_missing: bool = False,
    language: str = "en",
    name: str | None = None,
) -> EvaluationDataset:
    """Detect the layout of a data set, and open it.

    Args:
        source: a path, an address, or a name on the hub: `wds/vtab/cifar10`, `clip-benchmark/wds_vtab-cifar10`.
        split: to evaluate; by default "test", or without it "val", or the only one.
        classes: names of the classes instead of the data set's own, see `read_class_names`.
        templates: prompts instead of the data set's own, see `read_prompts`.
        images: folder that the paths of a table are relative to; None for its own.
        image_column, caption_column: of a table, by default "filepath" and "caption"; of a Hugging Face dataset, by
            default one with a usual name.
        label_column: of classes; by default a usual name, if there are no captions.
        group_column: divides the images of a classification into groups.
        separator: of a CSV file; None to detect it.
        skip_missing: skip images of a table that do not exist, instead of raising.
        language: of class names and captions.
        name: of the data set, for tables and file names; by default from the source.

    Raises:
        DataError: if there is no data set, it lacks the split, class names or a column, or has fewer than two classes.
        ConfigError: if a file of classes or templates does not exist.
        DownloadError: if a remote file cannot be downloaded.
        MissingExtraError: for Parquet and Arrow without pyarrow.
    """
    source = os.fspath(source)
    if not source.strip():
        raise DataError(f"no data set was named; {EXPECTED}")
    given = None if classes is None else read_class_names(classes, name or default_name(source))
    path, names = Path(source), given if isinstance(given, list) else []
    rows = partial(
        open_hf_dataset,
        path,
        split=split,
        image_column=image_column,
        caption_column=caption_column,
        label_column=label_column,
        group_column=group_column,
        classes=names,
    )
    columns = TableColumns(
        image_column or TableColumns.image,
        caption_column or TableColumns.caption,
        label_column,
        group_column,
        separator,
    )
    if (remote := _remote_files(source)) is not None:
        dataset = open_webdataset_folders(
            remote, default_name(source), source, split=split, group_column=group_column
        )
    elif os.path.isdir(source):
        dataset = _open_folder(path, split, group_column, images, rows)
    elif not os.path.exists(source):  # unlike Path.exists, also for an impossible path
        raise DataError(f"{source} does not exist; {EXPECTED}")
    elif path.suffix.lower() in PARQUET_SUFFIXES and is_image_parquet(path, image_column):
        dataset = rows()
    elif is_pairs_table(path):
        dataset = open_table(
            path, columns, images=images, split=split, classes=names, skip_missing=skip_missing
        )
    else:
        dataset = _open_pairs(path, group_column, images)
    dataset.name, dataset.language = name or dataset.name, language
    if given is not None:
        rename_classes(dataset, given)
    if templates is not None:
        dataset.templates = read_prompts(templates, dataset.name)
    _check_classes(dataset)
    return dataset


def default_name(source: str) -> str:
    """Return the name of a data set from its path, address or name.

    `clip-benchmark/wds_vtab-cifar10` is `wds/vtab/cifar10`, and so is DataComp's folder `wds_vtab-cifar10_test`.
    """
    if source.startswith("wds/"):
        return source
    last = source.rstrip("/").partition("/tree/")[0].rpartition("/")[2]
    if not last.startswith("wds_"):
        return Path(last).stem if is_pairs_table(last) else last
    name = last.removeprefix("wds_").removesuffix("_test")
    group, dash, rest = name.partition("-")
    return f"wds/{group}/{rest}" if dash and group in ("vtab", "wilds", "fairness") else f"wds/{name}"


def _remote_files(source: str) -> FindFile | None:
    """Return the files of a data set that is not on this machine; None for a path."""
    if os.path.exists(source):
        return None
    if page := _HUB_PAGE.fullmatch(source.rstrip("/")):
        return files_on_hub(page[1], page[2] or None)
    if is_address(source):
        if is_pairs_table(source):
            raise DataError(f"{source}: tables are read from this machine; download it with its images first")
        return files_at_address(source)
    if source.startswith("wds/"):
        return files_on_hub(f"{HUB_OWNER}/wds_{source.removeprefix('wds/').replace('/', '-')}")
    return files_on_hub(source) if _HUB_NAME.fullmatch(source) else None


def _open_folder(
    folder: Path,
    split: str | None,
    group_column: str | None,
    images: str | os.PathLike[str] | None,
    rows: Callable[[], EvaluationDataset],
) -> EvaluationDataset:
    if has_webdataset_folders(folder):
        name = default_name(str(folder.resolve()))
        return open_webdataset_folders(
            files_in_folder(folder), name, str(folder), split=split, group_column=group_column
        )
    if (examples := find_winoground(folder)) is not None:
        return open_winoground(examples, images, group_column)
    if paths := find_sugar_crepe(folder):
        return open_sugar_crepe(paths, images)
    is_classes = has_classes(folder)
    if not is_classes and is_dataset(folder):  # which looks for Parquet files everywhere below
        return rows()
    if group_column is not None and is_classes:
        raise DataError(
            f"{folder} is a folder of classes and has no column {group_column!r}; use a table with the columns "
            "filepath, label and that of the groups"
        )
    if is_classes or class_folders(folder):
        return open_class_folders(folder, split)
    raise DataError(f"{folder} has no data set; {EXPECTED}")


def _open_pairs(
    path: Path, group_column: str | None, images: str | os.PathLike[str] | None
) -> EvaluationDataset:
    if path.name == EXAMPLES:
        return open_winoground(path, images, group_column)
    if path.stem in SUGAR_CREPE_KINDS and path.suffix == ".json":
        return open_sugar_crepe([path], images)
    raise DataError(f"{path} has an unknown format; {EXPECTED}")


def _check_classes(dataset: EvaluationDataset) -> None:
    if dataset.kind not in ("classes", "multilabel"):
        return
    if not dataset.classes:
        raise DataError(
            f"{dataset.source} has no class names; give a file with one name per line, in the order of the labels "
            "(classes=…, --classes FILE)"
        )
    if len(dataset.classes) < 2:
        raise DataError(f"{dataset.source} has one class, {dataset.classes[0]!r}; expected at least two")
