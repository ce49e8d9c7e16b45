"""The published tables: complete, found by the names people use, and doubtful cells marked."""

import csv
from importlib.resources import files

import pytest

from oneclip.evaluate.published import doubtful_figures, published_figures
from oneclip.zoo.catalogue import read_table

TABLES = files("oneclip.evaluate") / "published_tables"


def read(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((TABLES / name).read_text().splitlines()))


def published(model: str, dataset: str, classes: int = 0, metric: str = "acc1"):
    return published_figures(*model.split(":"), dataset, classes)[metric]


@pytest.mark.parametrize(
    ("table", "average"),
    [
        ("openclip_results.csv", "Average perf. on 38 datasets"),
        ("openclip_retrieval_results.csv", "Average score"),
    ],
)
def test_published_averages_are_those_of_the_cells(table: str, average: str) -> None:
    rows = read(table)
    assert len(rows) == 121
    for row in rows:
        cells = [float(value) for name, value in row.items() if name not in ("name", "pretrained", average)]
        assert sum(cells) / len(cells) == pytest.approx(float(row[average]), abs=1e-4), row["name"]


def test_recall_of_both_tables_agrees() -> None:
    retrieval = {(row["name"], row["pretrained"]): row for row in read("openclip_retrieval_results.csv")}
    for row in read("openclip_results.csv"):
        cells = retrieval[row["name"], row["pretrained"]]
        for name in ("Flickr", "MSCOCO"):
            both = [float(cells[f"{name} {way} retr. R@1"]) for way in ("image", "text")]
            assert sum(both) / 2 == pytest.approx(float(row[name]), abs=1.1e-4)


@pytest.mark.parametrize(
    "name", ["cifar100", "vtab/cifar100", "wds/vtab/cifar100", "clip-benchmark/wds_vtab-cifar100_test"]
)
def test_data_set_is_found_by_its_names(name: str) -> None:
    assert published("ViT-B-32:openai", name, 100).value == 0.6423


def test_data_set_with_another_number_of_classes_has_no_figures() -> None:
    assert published_figures("ViT-B-32", "openai", "photos/pets", 5) == {}


def test_metric_is_that_of_the_table() -> None:
    assert set(published_figures("ViT-B-32", "openai", "wds/vtab/pets", 37)) == {"mean_per_class_recall"}


def test_retrieval_has_recall_both_ways() -> None:
    figures = published_figures("ViT-B-32", "openai", "wds/mscoco_captions")
    assert figures["image_retrieval_recall@5"].value == 0.5594
    assert figures["text_retrieval_recall@1"].value == 0.5012


def test_unknown_model_has_no_figures() -> None:
    assert published_figures("pocket", "", "wds/cifar10", 10) == {}


def test_figures_of_imagenet_are_those_of_the_zoo() -> None:
    known = read_table("accuracy.json")
    assert {name: published(name, "imagenet1k", 1000).value for name in known} == known


@pytest.mark.parametrize(
    ("model", "dataset", "classes", "metric", "doubt"),
    [
        ("RN50:openai", "wds/wilds/fmow", 62, "acc_worst_region", "exactly 0"),
        ("RN50:openai", "mnist", 10, "acc1", None),
        ("ViT-B-32:commonpool_s_s13m_b4k", "mnist", 10, "acc1", "below guessing (0.100)"),
        ("ViT-B-32:datacomp_s_s13m_b4k", "cifar10", 10, "acc1", "all figures equal those of"),
        ("RN50:cc12m", "cifar10", 10, "acc1", None),
        ("coca_ViT-B-32:mscoco_finetuned_laion2b_s13b_b90k", "imagenet1k", 1000, "acc1", "far below"),
    ],
)
def test_doubtful_cell_is_marked(
    model: str, dataset: str, classes: int, metric: str, doubt: str | None
) -> None:
    doubts = published(model, dataset, classes, metric).doubts
    assert not doubts if doubt is None else any(one.startswith(doubt) for one in doubts)


def test_weights_measured_with_the_wrong_activation_are_marked() -> None:
    marked = {
        figure.row for figure in doubtful_figures() if figure.doubts[0].startswith("measured with GELU")
    }
    assert {"RN50:cc12m", "RN50:openai"} & marked == {"RN50:cc12m"}
