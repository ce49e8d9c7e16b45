"""CLIP_benchmark's webdataset layout: a folder, an address, or a repository on the Hugging Face hub.

    {split}/nshards.txt   {split}/0.tar, {split}/1.tar, …   classnames.txt
    zeroshot_classification_templates.txt                   dataset_type.txt

The members of a sample share their name up to the first dot: an image (webp, png, jpg) with `cls` (number of its
class), `npy` (1 for each of its classes) or `txt` (a caption in each line). Remote files are downloaded once, see
`remote_files`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from oneclip.embed.items import Failure, Item
from oneclip.errors import DataError, OfflineError, OneCLIPError
from oneclip.evaluate.data.dataset import EvaluationDataset, Kind, LazySplit, Sample, arrange_splits
from oneclip.evaluate.data.remote_files import FindFile
from oneclip.evaluate.data.text_files import read_text
from oneclip.evaluate.templates import check_templates
from oneclip.hub.cache import OFFLINE_REASON, offline
from oneclip.hub.ranges import read_ranges
from oneclip.hub.tars import TAR_ERRORS, iter_members, open_tar

IMAGE_KINDS = ("webp", "png", "jpg", "jpeg")
KINDS: dict[str, tuple[Kind, str]] = {
    "classification": ("classes", "cls"),
    "multilabel": ("multilabel", "npy"),
    "retrieval": ("captions", "txt"),
}
SPLITS = ("test", "val", "train", "valid", "validation", "trainval")


def has_webdataset_folders(folder: Path) -> bool:
    """Return whether a folder has the layout."""
    return next(folder.glob("*/nshards.txt"), None) is not None


def open_webdataset_folders(
    find: FindFile, name: str, source: str, *, split: str | None = None, group_column: str | None = None
) -> EvaluationDataset:
    """Open a data set in the layout. Its tars are only found, and if necessary downloaded, while it is iterated.

    Args:
        find: returns the files.
        name: of the data set.
        source: where it is, for messages and names of images.
        split: to evaluate; by default "test", or without it "val".
        group_column: field of the member `json` that divides images into groups, or `npy:N` for a column of the
            member `npy` of a classification, as in DataComp's.

    Raises:
        DataError: if no split is found, or a file does not contain what it should.
        DownloadError: if a file cannot be downloaded.
    """
    text = _read_text(find, "dataset_type.txt") or "classification"
    kind_name = text.strip().lower()
    if kind_name not in KINDS:
        raise DataError(
            f"dataset_type.txt of {source} has {text.strip()!r}; expected one of {', '.join(KINDS)}"
        )
    dataset = EvaluationDataset(name, KINDS[kind_name][0], {}, source=source)
    if dataset.kind != "captions":
        dataset.classes = [line.strip() for line in (_read_text(find, "classnames.txt") or "").splitlines()]
        templates = _read_text(find, "zeroshot_classification_templates.txt")
        if templates is not None and templates.strip():
            where = f"zeroshot_classification_templates.txt of {source}"
            dataset.templates = check_templates(templates.splitlines(), where)
    counts: dict[str, int] = {}
    for each in dict.fromkeys((*([split] if split else []), *SPLITS)):
        if (count := _read_text(find, f"{each}/nshards.txt")) is not None:
            if not count.strip().isdecimal() or not int(count):
                raise DataError(
                    f"{each}/nshards.txt of {source} has {count.strip()!r}; expected the number of tars, at least 1"
                )
            counts[each] = int(count)
    if not counts:
        raise _missing(
            source,
            "has no split: neither test/nshards.txt nor train/nshards.txt was found. Expected CLIP_benchmark's "
            "webdataset layout",
        )
    found = {
        each: LazySplit(
            f"the split {each!r} of {source}",
            partial(_split_samples, find, f"{source}/{each}", each, count, dataset, group_column),
        )
        for each, count in counts.items()
    }
    dataset.splits = arrange_splits(found, split, source)
    return dataset


def _read_text(find: FindFile, name: str) -> str | None:
    path = find(name)
    if path is None:
        return None
    return read_text(path)


def _split_samples(
    find: FindFile,
    source: str,
    split: str,
    count: int,
    dataset: EvaluationDataset,
    group_column: str | None,
) -> Iterator[Sample | Failure]:
    for number in range(count):
        name = f"{source}/{number}.tar"
        path = find(f"{split}/{number}.tar")
        if path is None:
            raise _missing(name, f"does not exist, although {split}/nshards.txt announces {count} tars")
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        damage = _index_tar(path, samples)
        for key, members in samples.items():
            yield _sample(path, f"{name}/{key}", members, dataset, group_column)
        if damage:
            yield Failure(
                name, f"{name} is damaged after {len(samples)} samples: {damage}", hides_others=True
            )


def _missing(name: str, what: str) -> OneCLIPError:
    """Return the error for what was not found; offline, it may exist elsewhere."""
    if offline() and not Path(name).parent.exists():
        return OfflineError(f"{name} is not on this machine and {OFFLINE_REASON}")
    return DataError(f"{name} {what}")


def _index_tar(path: Path, samples: dict[str, dict[str, tuple[int, int]]]) -> str:
    """Record the byte range of each member by sample and kind; return why the tar could not be read to its end."""
    try:
        with path.open("rb") as stream, open_tar(stream, is_indexed=True) as archive:
            for member in iter_members(archive):
                folder, slash, file = member.name.rpartition("/")
                key, _, kind = file.partition(".")
                if member.isreg() and key:
                    place = member.offset_data, member.offset_data + member.size
                    samples.setdefault(folder + slash + key, {})[kind.lower()] = place
    except TAR_ERRORS as error:
        return str(error) or type(error).__name__
    return ""


def _sample(
    path: Path,
    name: str,
    members: Mapping[str, tuple[int, int]],
    dataset: EvaluationDataset,
    group_column: str | None,
) -> Sample | Failure:
    """Read the annotation of a sample; its image is read later."""
    image = next((kind for kind in IMAGE_KINDS if kind in members), None)
    annotation = next(kind for of, kind in KINDS.values() if of == dataset.kind)
    if image is None or annotation not in members:
        lacks = "no image (webp, png, jpg)" if image is None else f"no .{annotation}"
        return Failure(name, f"{name} has {lacks}")
    start, stop = members[image]
    read = partial(_read_range, str(path), start, stop)
    item = Item(f"{name}.{image}", read, str(path), size=stop - start)
    try:
        content = _read_range(str(path), *members[annotation])
        group = "" if group_column is None else _group(name, str(path), members, group_column)
        if dataset.kind == "captions":
            texts = tuple(line for line in content.decode().splitlines() if line.strip())
            return Sample(item, texts=texts) if texts else Failure(name, f"{name} has no captions")
        labels = _labels(content, dataset.kind)
    except DataError:
        raise
    except (ValueError, OSError, LookupError, TypeError) as error:
        return Failure(name, f"{name}: its annotation cannot be read: {error}")
    wrong = [label for label in labels if not 0 <= label < len(dataset.classes)]
    if wrong:
        raise DataError(
            f"{name} has the class {wrong[0]}, but {dataset.source} has {len(dataset.classes)} class names; expected "
            "a name for each class, in classnames.txt or in the file of --classes"
        )
    if dataset.kind == "classes":
        return Sample(item, labels[0], group=group)
    return Sample(item, labels=labels, group=group)


def _labels(content: bytes, kind: Kind) -> tuple[int, ...]:
    if kind == "classes":
        return (int(content),)
    target = np.load(io.BytesIO(content), allow_pickle=False)
    return tuple(int(label) for label in np.flatnonzero(target > 0))


def _group(name: str, path: str, members: Mapping[str, tuple[int, int]], column: str) -> str:
    """Return the group of a sample, from a field of its `json` or a column of its `npy`.

    Raises:
        DataError: if the sample has none; that is a wrong option rather than one bad sample.
    """
    kind, _, index = column.partition(":")
    try:
        if kind == "npy":
            array = np.load(io.BytesIO(_read_range(path, *members["npy"])), allow_pickle=False)
            return str(array.reshape(-1)[int(index)])
        return str(json.loads(_read_range(path, *members["json"]))[column])
    except (LookupError, TypeError, ValueError) as error:
        where = f"column {index!r} in its .npy" if kind == "npy" else f"field {column!r} in its .json"
        raise DataError(
            f"{name} has no group: there is no {where}. Expected in group_column a field of the .json of every sample, "
            "or npy:N for column N of its .npy"
        ) from error


def _read_range(path: str, start: int, stop: int) -> bytes:
    return read_ranges(path, [(start, stop)])[0]
