"""Generate small data sets for tests, in every layout that an evaluation reads.

An image is of one colour with some noise, so that each has its own content and that models for tests can tell classes
apart (see tests/evaluate/by_colour.py).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tars import tar

COLOURS = {
    "red": (230, 25, 25),
    "green": (25, 230, 25),
    "blue": (25, 25, 230),
    "yellow": (230, 230, 25),
    "purple": (230, 25, 230),
    "turquoise": (25, 230, 230),
}
TEMPLATES = ("a photo of something {c}.", "a {c} thing.")
"""In the syntax of CLIP_benchmark."""


def image_bytes(colour: str, number: int = 0, *, format: str = "PNG", size: int = 16) -> bytes:
    """Return an image file of one colour, with noise from a seed."""
    noise = np.random.default_rng(number).integers(-25, 26, (size, size, 3))
    stream = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    Image.fromarray((np.asarray(COLOURS[colour]) + noise).astype(np.uint8)).save(stream, format, **options)
    return stream.getvalue()


def make_classes(
    folder: Path,
    *,
    classes: Sequence[str] = ("red", "green", "blue"),
    per_class: int = 4,
    splits: Mapping[str, int] | None = None,
) -> Path:
    """Write FOLDER/CLASS/N.png, or with `splits` FOLDER/SPLIT/CLASS/N.png with that many images per class."""
    number = 0
    for split, count in (splits or {"": per_class}).items():
        for name in classes:
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                (place / f"{index:02}.png").write_bytes(image_bytes(name, number))
                number += 1
    return folder


def make_table(
    folder: Path,
    *,
    count: int = 6,
    captions: int = 2,
    columns: Mapping[str, Sequence[str]] | None = None,
    name: str = "captions.csv",
) -> Path:
    """Write a table with `filepath` and `caption`, in which each image has several rows, and images in `images/`.

    Args:
        folder: of the table.
        count: number of images; their colours repeat.
        captions: rows of each image, with different captions.
        columns: further columns, with a value for each image, such as {"label": […]}.
        name: of the table.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour = list(COLOURS)[number % len(COLOURS)]
        path = f"images/{number:02}.png"
        (folder / path).write_bytes(image_bytes(colour, number))
        more = [values[number] for values in (columns or {}).values()]
        rows += [[path, f"{colour} drawing {number}, text {k}", *more] for k in range(captions)]
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filepath", "caption", *(columns or {})], *rows])
    return folder / name


def wds_files(
    kind: str = "classification",
    *,
    classes: Sequence[str] = ("red", "green", "blue"),
    splits: Mapping[str, int] | None = None,
    shards: int = 2,
    format: str = "webp",
) -> dict[str, bytes]:
    """Return the files of a data set in CLIP_benchmark's webdataset layout, by path.

    Args:
        kind: "classification" with `cls`, "multilabel" with `npy`, or "retrieval" with `txt`.
        classes: colours; the classes of the images follow each other in turn. A multilabel image also has the next
            class if its number is odd.
        splits: number of images per class; by default 2 in "train" and 4 in "test".
        shards: number of tars in each split.
        format: "webp", "png" or "jpg".
    """
    files = {"dataset_type.txt": f"{kind}\n".encode()}
    if kind != "retrieval":
        files["classnames.txt"] = "".join(f"{name}\n" for name in classes).encode()
        files["zeroshot_classification_templates.txt"] = "".join(f"{t}\n" for t in TEMPLATES).encode()
    seed = 0
    for split, per_class in (splits or {"train": 2, "test": 4}).items():
        members: list[dict[str, bytes]] = [{} for _ in range(shards)]
        total = per_class * len(classes)
        for number in range(total):
            label = number % len(classes)
            key, shard = f"s{number:07}", members[number * shards // total]
            encoder = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG"}[format]
            shard[f"{key}.{format}"] = image_bytes(classes[label], seed, format=encoder)
            name, content = _annotation(kind, label, number, classes)
            shard[f"{key}.{name}"] = content
            seed += 1
        files[f"{split}/nshards.txt"] = f"{shards}\n".encode()
        files |= {f"{split}/{index}.tar": tar(each) for index, each in enumerate(members)}
    return files


def _annotation(kind: str, label: int, number: int, classes: Sequence[str]) -> tuple[str, bytes]:
    if kind == "classification":
        return "cls", str(label).encode()
    if kind == "retrieval":
        return "txt", f"a {classes[label]} thing {number}\nsomething {classes[label]}, {number}".encode()
    target = np.zeros(len(classes), np.float32)
    target[label] = 1
    if number % 2:
        target[(label + 1) % len(classes)] = 1
    stream = io.BytesIO()
    np.save(stream, target)
    return "npy", stream.getvalue()


def make_wds(folder: Path, kind: str = "classification", **options: Any) -> Path:
    """Write a data set in CLIP_benchmark's webdataset layout; see `wds_files`."""
    for name, content in wds_files(kind, **options).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make_hf_dataset(
    folder: Path,
    *,
    kind: str = "classification",
    form: str = "save_to_disk",
    classes: Sequence[str] = ("red", "green", "blue"),
    splits: Mapping[str, int] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write a Hugging Face dataset as the `datasets` package does.

    Args:
        folder: of the dataset.
        kind: "classification" with the columns `image` and `label`, or "captions" with `image` and `caption`.
        form: "save_to_disk" for Arrow files with `state.json`, "parquet" for `data/SPLIT-00000-of-00001.parquet`.
        classes: names of the ClassLabel, which are in the metadata of the schema.
        splits: number of images per class; by default 2 in "train" and 4 in "test".
        columns: further columns, with a value for each image of every split.
    """
    import pyarrow

    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if kind == "classification":
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
    else:
        features["caption"] = {"dtype": "string", "_type": "Value"}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in columns or {}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    splits = splits or {"train": 2, "test": 4}
    seed = 0
    for split, per_class in splits.items():
        labels = [number % len(classes) for number in range(per_class * len(classes))]
        images = []
        for label in labels:
            images.append({"bytes": image_bytes(classes[label], seed), "path": None})
            seed += 1
        image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        values = {"image": pyarrow.array(images, image_type)}
        if kind == "classification":
            values["label"] = pyarrow.array(labels, pyarrow.int64())
        else:
            values["caption"] = pyarrow.array([f"a {classes[k]} thing {i}" for i, k in enumerate(labels)])
        values |= {name: pyarrow.array(each[: len(labels)]) for name, each in (columns or {}).items()}
        table = pyarrow.table(values).replace_schema_metadata(metadata)
        _write_split(folder, form, split, table, features, is_only=len(splits) == 1)
    if form == "save_to_disk" and len(splits) > 1:
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def _write_split(
    folder: Path, form: str, split: str, table: Any, features: Mapping[str, Any], *, is_only: bool
) -> None:
    import pyarrow.ipc
    import pyarrow.parquet

    if form == "parquet":
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
        return
    place = folder if is_only else folder / split
    place.mkdir(parents=True, exist_ok=True)
    name = "data-00000-of-00001.arrow"
    with (
        pyarrow.OSFile(str(place / name), "wb") as sink,
        pyarrow.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    state = {"_data_files": [{"filename": name}], "_split": split, "_format_columns": None}
    (place / "state.json").write_text(json.dumps(state))
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))


def make_winoground(folder: Path, *, count: int = 4) -> Path:
    """Write `examples.jsonl` and `images/`, as Winoground is published: two images and two captions each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    lines = []
    for number in range(count):
        pair = names[number % len(names)], names[(number + 1) % len(names)]
        example: dict[str, Any] = {"id": number, "tag": "Object" if number % 2 else "Relation"}
        for side, colour in enumerate(pair):
            file = f"ex_{number}_img_{side}"
            content = image_bytes(colour, 2 * number + side)
            (folder / "images" / f"{file}.png").write_bytes(content)
            example |= {f"image_{side}": file, f"caption_{side}": f"a {colour} thing {number}"}
        lines.append(json.dumps(example))
    (folder / "examples.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_sugar_crepe(folder: Path, *, count: int = 6, kinds: Sequence[str] = ("add_att", "swap_obj")) -> Path:
    """Write `KIND.json` and `val2017/`, as SugarCrepe is published: a right and a wrong caption for each image."""
    (folder / "val2017").mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    for offset, kind in enumerate(kinds):
        found = {}
        for number in range(count):
            colour, other = names[number % len(names)], names[(number + 1 + offset) % len(names)]
            file = f"{offset}{number:011}.jpg"
            content = image_bytes(colour, 100 * offset + number, format="JPEG")
            (folder / "val2017" / file).write_bytes(content)
            found[str(number * 2)] = {  # their indices are not contiguous either
                "filename": file,
                "caption": f"a {colour} thing",
                "negative_caption": f"a {other} thing",
            }
        (folder / f"{kind}.json").write_text(json.dumps(found))
    return folder
