"""A word, a file, or a prompt itself to the prompts that stand for classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES, TEMPLATES

NAMED: dict[str, Sequence[str]] = {"simple": SIMPLE_TEMPLATES, "imagenet": TEMPLATES}


def read_templates(name: str) -> Sequence[str]:
    """The prompts that a setting means.

    Args:
        name: "simple" for 7 of ImageNet's prompts, "imagenet" for all 80, a text file with one a line, or one prompt.

    Raises:
        ConfigError: for a word that is none of these.
        DataError: for a file that cannot be read, or has a line without a place for the name.
    """
    if name in NAMED:
        return NAMED[name]
    if "{}" in name:
        return [name]
    if not Path(name).is_file():
        raise ConfigError(
            f"templates is {name!r}, which is neither {' nor '.join(NAMED)}, nor a file, nor a prompt with {{}} in it"
        )
    try:
        lines = [line.strip() for line in Path(name).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the prompts in {name} cannot be read: {error}") from error
    prompts = [line for line in lines if line]
    without = [line for line in prompts if "{}" not in line]
    if not prompts or without:
        found = repr(without[0]) if without else "no line"
        raise DataError(f"{name} has {found}; expected a prompt a line, each with {{}} where the name goes")
    return prompts
