"""Published zero-shot figures of open_clip's models, and which of them are in doubt.

`published_tables/` holds two tables of open_clip without their columns of parameters and operations, and `columns.csv`:
which data set and metric a column is, on how many images it was measured, and what guessing reaches (DataComp's task
list).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import sqrt
from typing import NamedTuple

SOURCE = (
    "https://github.com/mlfoundations/open_clip, docs/openclip_results.csv and openclip_retrieval_results.csv"
)

# data sets that also have another name, without the parts that `_dataset_key` removes
_OTHER_NAMES = {
    "mscoco_2014_5k_test_image_text_retrieval": "mscoco_captions",
    "imagenet_v2": "imagenetv2",
    "imagenet_a": "imagenet-a",
    "imagenet_o": "imagenet-o",
    "imagenet_r": "imagenet-r",
    "rendered_sst2": "renderedsst2",
}
_KIND_OF_SOURCE = re.compile(r"^(wds_)?((vtab|wilds|retrieval|misc|fairness)-)?")
_GELU, _QUICKGELU = "", "-quickgelu"


@dataclass(frozen=True)
class PublishedFigure:
    """Figure of a published table.

    Attributes:
        value: as published, usually from 0 to 1.
        column: of the table.
        row: architecture and weights as the table names them, "ViT-B-32-quickgelu:openai".
        doubts: why the figure is implausible; empty if it is not.
    """

    value: float
    column: str
    row: str
    doubts: tuple[str, ...] = ()


class _Column(NamedTuple):
    dataset: str
    metric: str
    images: int
    classes: int
    chance: float


def published_figures(
    architecture: str, pretrained: str, dataset: str, classes: int = 0
) -> dict[str, PublishedFigure]:
    """Return what was published for a model on a data set.

    Args:
        architecture: name of the architecture, such as "ViT-B-32"; weights that were measured with both activations
            have the figures of the one that they were trained with, unless `architecture` says "-quickgelu".
        pretrained: tag of the weights, such as "openai".
        dataset: its name, such as "wds/vtab/cifar100" or "cifar100".
        classes: number of its classes, 0 for captions. A data set of the same name with another number of classes has
            no published figures.

    Returns:
        Figures by the name of the metric, such as "acc1"; empty if none are known.
    """
    row = _find_row(architecture, pretrained)
    key = _dataset_key(dataset)
    return {
        column.metric: figure
        for name, column in _columns().items()
        if row and column.dataset == key and column.classes == classes
        for figure in [_figures().get((row, name))]
        if figure is not None
    }


def doubtful_figures() -> Iterator[PublishedFigure]:
    """Yield all published figures that are implausible, in the order of the tables."""
    yield from (figure for figure in _figures().values() if figure.doubts)


def _find_row(architecture: str, pretrained: str) -> str:
    """Return the name of a model's row; "" if there is none."""
    rows = _tables()
    endings = (_QUICKGELU, _GELU) if pretrained else ()
    return next((row for end in endings if (row := f"{architecture}{end}:{pretrained}") in rows), "")


def _dataset_key(name: str) -> str:
    """Reduce the name of a data set to that in `columns.csv`: "wds/vtab/cifar100" becomes "cifar100"."""
    last = name.lower().rstrip("/").rsplit("/", 1)[-1].removesuffix("_test")
    key = _KIND_OF_SOURCE.sub("", last)
    return _OTHER_NAMES.get(key, key)


@cache
def _columns() -> Mapping[str, _Column]:
    return {
        row["column"]: _Column(
            row["dataset"], row["metric"], int(row["images"]), int(row["classes"]), float(row["chance"])
        )
        for row in _read("columns.csv")
    }


@cache
def _tables() -> Mapping[str, Mapping[str, float]]:
    """Return the cells of both tables by row and column."""
    cells: dict[str, dict[str, float]] = {}
    for name in ("openclip_results.csv", "openclip_retrieval_results.csv"):
        for row in _read(name):
            model = f"{row.pop('name')}:{row.pop('pretrained')}"
            cells.setdefault(model, {}).update({column: float(value) for column, value in row.items()})
    return cells


@cache
def _figures() -> Mapping[tuple[str, str], PublishedFigure]:
    """Return all cells with their doubts, by row and column; averages are not among them."""
    return {
        (row, name): PublishedFigure(cells[name], name, row, (*of_row, *_doubts_of_cell(cells, name, column)))
        for row, cells in _tables().items()
        for of_row in [tuple(_doubts_of_row(row))]
        for name, column in _columns().items()
        if name in cells
    }


def _doubts_of_cell(cells: Mapping[str, float], name: str, column: _Column) -> Iterator[str]:
    value, chance = cells[name], column.chance
    if not 0 <= value <= 1:
        yield "not between 0 and 1"
    elif value == 0:
        yield "exactly 0"
    elif value < chance - 3 * sqrt(chance * (1 - chance) / column.images):
        yield f"below guessing ({chance:.3f})"
    before = cells.get(_fewer_results(name), 0)
    if value < before:
        yield f"less than with fewer results ({before:.4f})"


def _doubts_of_row(row: str) -> Iterator[str]:
    tables = _tables()
    architecture, tag = row.split(":", 1)
    plain = architecture.removesuffix(_QUICKGELU)
    trained_with = f"{plain}{_QUICKGELU}:{tag}"
    if row != trained_with and trained_with in tables and tables[row] != tables[trained_with]:
        yield "measured with GELU, and the weights were trained with QuickGELU"
    for other, cells in tables.items():
        if other not in (row, trained_with, f"{plain}:{tag}") and cells == tables[row]:
            yield f"all figures equal those of {other}"
        start = other.removeprefix(f"{architecture}:")
        was_fine_tuned = start != other and tag.endswith(f"_{start}")
        if was_fine_tuned and tables[row]["ImageNet 1k"] < cells["ImageNet 1k"] / 2:
            yield f"far below {other}, from which it was fine-tuned"


def _fewer_results(column: str) -> str:
    """Return the column of recall at the next smaller k; "" if there is none."""
    smaller = {"R@5": "R@1", "R@10": "R@5"}
    start, _, end = column.rpartition(" ")
    return f"{start} {smaller[end]}" if end in smaller else ""


def _read(name: str) -> list[dict[str, str]]:
    text = (files("oneclip.evaluate") / "published_tables" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
