"""Suites of one's own, in TOML files."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oneclip.errors import ConfigError, nearest_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ENTRY_KEYS = ("source", "name", "task", "metric")
PATHS = ("source", "classes", "templates", "images")  # relative to the file, if they exist there
OPTIONS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("source", "name", "metric", "split", "images", "image_column", "caption_column"), (str,)
    ),
    **dict.fromkeys(("label_column", "group_column", "separator", "language", "task"), (str,)),
    **dict.fromkeys(("classes", "templates"), (str, list)),
    "skip_missing": (bool,),
}
"""Keys of a data set, with the types of their values; those not in `ENTRY_KEYS` are options of `open_dataset`."""


def read_suite_file(path: Path) -> list[str | dict[str, Any]]:
    """Read a suite from a TOML file.

        suites = ["retrieval"]          # published suites to include; may be left out

        [[dataset]]
        source = "flowers"              # path relative to this file, an address, or wds/NAME
        name = "flowers"                # for tables; by default from the source
        task = "linear-probe"           # by default "auto"
        metric = "lp_acc1"              # for the mean of the suite; by default the main one
        templates = ["a photo of a {}, a type of flower."]
        classes = "names.txt"           # this and other options of `open_dataset`: split, images, image_column, …

    Returns:
        names of suites, and the arguments of a `SuiteEntry` for each data set, in order.

    Raises:
        ConfigError: if the file cannot be read, has an unknown key, or a value of the wrong type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the suite {path} cannot be read: {error.strerror}") from error
    except (RecursionError, ValueError) as error:  # invalid UTF-8 or TOML
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    _check_keys(content, ("suites", "dataset"), str(path))
    suites, datasets = content.get("suites", []), content.get("dataset", [])
    if not isinstance(suites, list) or not all(
        isinstance(name, str) and not name.endswith(".toml") for name in suites
    ):
        raise ConfigError(f"suites in {path} is {suites!r}; expected a list of names of published suites")
    if not isinstance(datasets, list) or not all(isinstance(entry, dict) for entry in datasets):
        raise ConfigError(
            f"{path} has a key 'dataset' that is not a list; write [[dataset]] before each data set"
        )
    if not suites and not datasets:
        raise ConfigError(f"{path} has no data sets; write [[dataset]] and source = … for each")
    return [*suites, *(_entry(entry, path, number) for number, entry in enumerate(datasets, start=1))]


def _entry(entry: dict[str, Any], path: Path, number: int) -> dict[str, Any]:
    where = f"data set {number} of {path}"
    _check_keys(entry, OPTIONS, where)
    if "source" not in entry:
        raise ConfigError(f"{where} has no source; expected a path, an address, or wds/NAME")
    for key, value in entry.items():
        types = OPTIONS[key]
        is_texts = not isinstance(value, list) or all(isinstance(each, str) for each in value)
        if not isinstance(value, types) or not is_texts or value in ("", []):
            expected = (
                "true or false" if bool in types else "a text" + " or a list of texts" * (list in types)
            )
            raise ConfigError(f"{key} in {where} is {value!r}; expected {expected}")
    found = {key: _relative(value, path.parent) if key in PATHS else value for key, value in entry.items()}
    own = {key: value for key, value in found.items() if key in ENTRY_KEYS}
    return {**own, "options": {key: value for key, value in found.items() if key not in ENTRY_KEYS}}


def _relative(value: Any, folder: Path) -> Any:
    """Return a path relative to the folder of the file, if it leads to something there."""
    return str(folder / value) if isinstance(value, str) and os.path.exists(folder / value) else value


def _check_keys(found: Mapping[str, Any], known: Mapping[str, Any] | tuple[str, ...], where: str) -> None:
    for key in found:
        if key not in known:
            near = nearest_names(key, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"expected {', '.join(known)}"
            raise ConfigError(f"{where} has an unknown key {key!r}; {hint}")
