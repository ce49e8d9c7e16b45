"""Class names and prompts for a data set from files: `--classes FILE` and `--templates FILE`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.data.dataset import EvaluationDataset, Templates
from oneclip.evaluate.data.text_files import parse_json, read_text
from oneclip.evaluate.imagenet import class_names
from oneclip.evaluate.templates import check_templates, read_templates
from oneclip.text.prompts import has_placeholder

OTHERS = "imagenet1k"  # CLIP_benchmark uses its templates for data sets that a file does not name
ClassSource = Sequence[str] | str | os.PathLike[str]


def read_class_names(source: ClassSource, dataset: str = "") -> list[str] | dict[str, str]:
    """Read the names of classes.

    Args:
        source: names; or "imagenet" for its 1,000 names; or a text file with one name per line; or a JSON file with a
            list of names, an object from old names to new ones, or, as CLIP_benchmark writes it, an object from names
            of data sets to lists.
        dataset: name of the data set, to find it in such an object.

    Returns:
        the names in the order of their numbers, or old names to new ones.

    Raises:
        ConfigError: if the file does not exist.
        DataError: if it cannot be read, or a name is empty.
    """
    if not isinstance(source, (str, os.PathLike)):
        return list(source)
    if source == "imagenet":
        return list(class_names())
    path = Path(source)
    if not os.path.isfile(path):
        raise ConfigError(
            f"classes is {str(source)!r}; expected 'imagenet', or a text or JSON file with the names of the classes"
        )
    if path.suffix.lower() != ".json":
        names = read_text(path).splitlines()
        while names and not names[-1].strip():
            names.pop()
        return _check_names([name.strip() for name in names], path)
    content = _of_dataset(parse_json(read_text(path), str(path)), dataset, list)
    if isinstance(content, dict) and all(isinstance(new, str) for new in content.values()):
        _check_names(list(content.values()), path)
        return content
    if not isinstance(content, list):
        raise DataError(
            f"{path} has no class names for {dataset or 'this data set'}; expected a list of names, or an object from "
            "old names to new ones or from names of data sets to lists"
        )
    return _check_names(content, path)


def rename_classes(dataset: EvaluationDataset, names: list[str] | dict[str, str]) -> None:
    """Replace the class names of a data set.

    Raises:
        DataError: if there are fewer or more names than classes, or an old name is not a class.
    """
    if isinstance(names, dict):
        unknown = [old for old in names if old not in dataset.classes]
        if unknown:
            raise DataError(
                f"the new class names have {unknown[0]!r}, which is not a class of {dataset.name}: "
                f"{', '.join(map(repr, dataset.classes[:5]))}…"
            )
        dataset.classes = [names.get(old, old) for old in dataset.classes]
        return
    if dataset.classes and len(names) != len(dataset.classes):
        raise DataError(
            f"{len(names)} class names were given, but {dataset.name} has {len(dataset.classes)} classes"
        )
    dataset.classes = names


def read_prompts(source: Templates | str | os.PathLike[str], dataset: str = "") -> Templates:
    """Read prompt templates, or whole prompts for each class.

    Args:
        source: templates themselves; what `read_templates` takes; or a JSON file with a list of templates, an object
            from class names to their whole prompts, or, as CLIP_benchmark writes it, an object from names of data sets
            to one of these.
        dataset: name of the data set, to find it in such an object.

    Raises:
        ConfigError: if the file does not exist.
        DataError: if it cannot be read, or a template has no placeholder.
    """
    if not isinstance(source, (str, os.PathLike)):
        return source
    path = Path(source)
    if path.suffix.lower() != ".json":
        return read_templates(os.fspath(source))
    content = _of_dataset(parse_json(read_text(path), str(path)), dataset, (list, dict), OTHERS)
    if isinstance(content, list) and all(isinstance(line, str) for line in content):
        return check_templates(content, str(path))
    is_by_class = isinstance(content, dict) and all(
        isinstance(prompts, list)
        and prompts
        and all(
            isinstance(prompt, str) and not has_placeholder(prompt.replace("{c}", "{}")) for prompt in prompts
        )
        for prompts in content.values()
    )
    if not is_by_class or not content:
        raise DataError(
            f"{path} has no prompts for {dataset or 'this data set'}; expected a list of templates with {{}}, or an "
            "object from class names to lists of whole prompts"
        )
    return {name: list(prompts) for name, prompts in content.items()}


def _of_dataset(content: Any, dataset: str, kind: type | tuple[type, ...], others: str = "") -> Any:
    """Return the part of an object that is for a data set, or for others, or all of it if it names neither."""
    if not isinstance(content, dict):
        return content
    short = dataset.removeprefix("wds/")
    for name in (dataset, short, short.rpartition("/")[2], others):
        if isinstance(content.get(name), kind):
            return content[name]
    return content


def _check_names(names: list[Any], source: Path) -> list[str]:
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"class {number} in {source} is {name!r}; expected a name")
    return names
