"""Published suites of data sets, and suites of one's own in TOML files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from oneclip.errors import ConfigError, nearest_names
from oneclip.evaluate.data.caption_pairs import SUGAR_CREPE_KINDS
from oneclip.evaluate.data.open_dataset import default_name
from oneclip.evaluate.data.suite_file import read_suite_file


@dataclass(frozen=True)
class SuiteEntry:
    """Data set of a suite.

    Attributes:
        name: as CLIP_benchmark writes it, such as "wds/vtab/cifar100".
        source: what `open_dataset` opens.
        task: "auto", or the task that the suite asks for.
        options: of `open_dataset`.
        metric: that the suite reports; "" for the main metric of the task.
    """

    name: str
    source: str
    task: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    metric: str = ""


_ROBUSTNESS = ("imagenetv2", "imagenet_sketch", "imagenet-a", "imagenet-r", "objectnet")
_VTAB = (
    *("vtab/caltech101", "vtab/cifar100", "vtab/clevr_count_all", "vtab/clevr_closest_object_distance"),
    *("vtab/diabetic_retinopathy", "vtab/dmlab", "vtab/dsprites_label_orientation"),
    *("vtab/dsprites_label_x_position", "vtab/dtd", "vtab/eurosat", "vtab/kitti_closest_vehicle_distance"),
    *("vtab/flowers", "vtab/pets", "vtab/pcam", "vtab/resisc45", "vtab/smallnorb_label_azimuth"),
    *("vtab/smallnorb_label_elevation", "sun397", "vtab/svhn"),
)
_VTAB_PLUS = (
    *(
        "imagenet1k",
        *_ROBUSTNESS,
        "fer2013",
        "voc2007",
        "voc2007_multilabel",
        "sun397",
        "cars",
        "fgvc_aircraft",
    ),
    *("mnist", "stl10", "gtsrb", "country211", "renderedsst2", "vtab/cifar10"),
    *(name for name in _VTAB if name != "sun397"),
)
_DATACOMP = {  # metric by data set; "" is accuracy
    **dict.fromkeys(("imagenet1k", *_ROBUSTNESS, "imagenet-o"), ""),
    **dict.fromkeys(("cifar10", "country211", "food101", "gtsrb", "mnist", "voc2007", "renderedsst2"), ""),
    **dict.fromkeys(("cars", "stl10", "sun397"), ""),
    **dict.fromkeys(("vtab/cifar100", "vtab/clevr_count_all", "vtab/clevr_closest_object_distance"), ""),
    **dict.fromkeys(("vtab/dtd", "vtab/eurosat", "vtab/kitti_closest_vehicle_distance", "vtab/pcam"), ""),
    **dict.fromkeys(("vtab/resisc45", "vtab/svhn", "wilds/camelyon17"), ""),
    **dict.fromkeys(
        ("vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets"), "mean_per_class_recall"
    ),
    **dict.fromkeys(("wilds/fmow", "fairness/geode"), "worst_group_acc1"),
}
_DATACOMP_GROUPS = {  # column of the member `npy`: region, region, slide
    "wilds/fmow": "npy:0",
    "fairness/geode": "npy:0",
    "wilds/camelyon17": "npy:1",
}


def _published(names: Sequence[str]) -> tuple[SuiteEntry, ...]:
    return tuple(SuiteEntry(f"wds/{name}", f"wds/{name}") for name in names)


def _datacomp() -> tuple[SuiteEntry, ...]:
    """Return the data sets of DataComp (Gadre et al. 2023, appendix N) whose metrics are computed here.

    iWildCam (F1 score), Dollar Street (worst group of the top five), FairFace, UTKFace and WinoGAViL are missing.
    Flickr and MSCOCO are those of CLIP_benchmark.
    """
    entries = []
    for name, metric in _DATACOMP.items():
        folder = f"wds_{name.removeprefix('fairness/').replace('/', '-')}_test"
        options = {"group_column": _DATACOMP_GROUPS[name]} if name in _DATACOMP_GROUPS else {}
        entries.append(SuiteEntry(f"wds/{name}", f"djghosh/{folder}", options=options, metric=metric))
    return (*entries, *_published(("flickr30k", "mscoco_captions")))


SUITES: dict[str, tuple[SuiteEntry, ...]] = {
    "vtab+": _published(_VTAB_PLUS),
    "vtab": _published(_VTAB),
    "retrieval": _published(("mscoco_captions", "flickr8k", "flickr30k")),
    "imagenet-robustness": _published(_ROBUSTNESS),
    "datacomp": _datacomp(),
    "sugar_crepe": tuple(
        SuiteEntry(f"sugar_crepe/{kind}", f"sugar_crepe/{kind}.json") for kind in SUGAR_CREPE_KINDS
    ),
}
"""Suites by name: those of CLIP_benchmark (VTAB: Zhai et al. 2019) and DataComp."""


def open_suite(name: str, root: str | None = None) -> list[SuiteEntry]:
    """List the data sets of a suite.

    Args:
        name: one of `SUITES`, or the path of a TOML file, see `read_suite_file`.
        root: folder with data sets. One that is there, under the name of its repository or its own
            (`wds_vtab-cifar10`, `vtab/cifar10`, `cifar10`), is used; others are downloaded from the hub.

    Raises:
        ConfigError: if there is no such suite, or a file is not valid.
    """
    if name.lower().endswith(".toml"):
        entries = []
        for found in read_suite_file(Path(name)):
            if isinstance(found, str):
                entries += open_suite(found, root)
            else:
                entries.append(SuiteEntry(**{"name": default_name(found["source"]), **found}))
        return entries
    suite = SUITES.get(name) or SUITES.get(name.replace("_", "-"))
    if suite is None:
        near = nearest_names(name, SUITES)
        raise ConfigError(
            f"{name!r} is not a suite; "
            + (f"did you mean {' or '.join(near)}? Expected one of " if near else "expected one of ")
            + f"{', '.join(SUITES)}, or a file that ends in .toml"
        )
    return list(suite) if root is None else [_in_folder(entry, Path(root)) for entry in suite]


def _in_folder(entry: SuiteEntry, root: Path) -> SuiteEntry:
    """Return the entry with the local folder as its source, if there is one."""
    short = entry.name.removeprefix("wds/")
    dashed = f"wds_{short.replace('/', '-')}"
    repository = entry.source.rpartition("/")[2]
    for name in dict.fromkeys(
        (repository, dashed, f"{dashed}_test", entry.source, short, short.rpartition("/")[2])
    ):
        if (root / name).exists():
            return replace(entry, source=str(root / name))
    return entry
