"""Suites of data sets: published ones, and TOML files."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import make_classes, make_sugar_crepe, make_wds

from oneclip.errors import ConfigError
from oneclip.evaluate.data import SUITES, open_dataset, open_suite


def test_a_suite_names_data_sets_of_the_hub() -> None:
    entry = open_suite("vtab")[1]
    assert (entry.name, entry.source, entry.task) == ("wds/vtab/cifar100", "wds/vtab/cifar100", "auto")


def test_datacomp_reports_its_own_metrics() -> None:
    found = {entry.name: entry for entry in open_suite("datacomp")}
    assert found["wds/vtab/pets"].source == "djghosh/wds_vtab-pets_test"
    assert found["wds/vtab/pets"].metric == "mean_per_class_recall"
    assert found["wds/fairness/geode"].source == "djghosh/wds_geode_test"
    assert found["wds/fairness/geode"].options == {"group_column": "npy:0"}


@pytest.mark.parametrize(
    "folder", ["wds_vtab-cifar100", "wds_vtab-cifar100_test", "vtab/cifar100", "cifar100"]
)
def test_data_sets_in_a_folder_are_used(tmp_path: Path, folder: str) -> None:
    make_wds(tmp_path / folder, splits={"test": 1})
    found = {entry.name: entry for entry in open_suite("vtab", str(tmp_path))}
    assert found["wds/vtab/cifar100"].source == str(tmp_path / folder)
    assert found["wds/vtab/dtd"].source == "wds/vtab/dtd"


def test_sugar_crepe_is_a_suite_of_its_files(tmp_path: Path) -> None:
    make_sugar_crepe(tmp_path / "sugar_crepe")
    entries = open_suite("sugar_crepe", str(tmp_path))
    assert len(entries) == 7
    assert open_dataset(entries[0].source).name == entries[0].name == "sugar_crepe/add_att"


def test_the_names_of_clip_benchmark_are_understood() -> None:
    assert open_suite("imagenet_robustness") == list(SUITES["imagenet-robustness"])


def test_an_unknown_suite_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"'vtab-plus' is not a suite; did you mean .*vtab.* Expected one of vtab\+, vtab"
    ):
        open_suite("vtab-plus")


def test_a_file_is_a_suite_of_its_own(tmp_path: Path) -> None:
    make_classes(tmp_path / "flowers")
    (tmp_path / "names.txt").write_text("sky\ngrass\nrose\n")
    path = tmp_path / "mine.toml"
    path.write_text(
        'suites = ["retrieval"]\n'
        '[[dataset]]\nsource = "flowers"\ntask = "linear-probe"\nmetric = "lp_acc1"\nclasses = "names.txt"\n'
        '[[dataset]]\nname = "hub"\nsource = "wds/mnist"\ntemplates = ["the number {}"]\n'
    )
    *published, mine, of_hub = open_suite(str(path))
    assert published == list(SUITES["retrieval"])
    assert (mine.name, mine.task, mine.metric) == ("flowers", "linear-probe", "lp_acc1")
    assert open_dataset(mine.source, **mine.options).classes == ["sky", "grass", "rose"]
    assert (of_hub.name, of_hub.source, of_hub.options) == (
        "hub",
        "wds/mnist",
        {"templates": ["the number {}"]},
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no data sets; write \[\[dataset\]\]"),
        ("[[dataset]]\nsplit = 'test'\n", "data set 1 of .* has no source"),
        ("[[dataset]]\nsource = 'a'\nspilt = 'test'\n", "has an unknown key 'spilt'; did you mean split"),
        ("[[dataset]]\nsource = 3\n", "source in data set 1 of .* is 3; expected a text"),
        ("[[dataset]]\nsource = 'a'\nclasses = [1]\n", r"is \[1\]; expected a text or a list of texts"),
        ("[dataset]\nsource = 'a'\n", r"a key 'dataset' that is not a list; write \[\[dataset\]\]"),
        ("suites = ['other.toml']\n", "expected a list of names of published suites"),
        ("suite = ['vtab']\n", "has an unknown key 'suite'; did you mean suites"),
        ("source =\n", "is not valid TOML"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_suite_is_one_clear_error(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        open_suite(str(path))
