"""Read the prompt templates of a zero-shot evaluation from a name, a file, or a template itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from oneclip.errors import ConfigError, DataError
from oneclip.evaluate.imagenet import SIMPLE_TEMPLATES, TEMPLATES
from oneclip.text.prompts import has_placeholder

NAMED_TEMPLATES: dict[str, Sequence[str]] = {"simple": SIMPLE_TEMPLATES, "imagenet": TEMPLATES}


def read_templates(source: str) -> Sequence[str]:
    """Read prompt templates.

    Args:
        source: "simple" for 7 of ImageNet's templates, "imagenet" for all 80, a text file with one template per line,
            or a single template.

    Raises:
        ConfigError: if `source` is none of these.
        DataError: if a file cannot be read, is empty, or has a line without a placeholder.
    """
    if source in NAMED_TEMPLATES:
        return NAMED_TEMPLATES[source]
    if has_placeholder(source):
        return [source]
    if not Path(source).is_file():
        names = ", ".join(NAMED_TEMPLATES)
        raise ConfigError(
            f"templates is {source!r}; expected {names}, a text file, or a prompt that contains {{}}"
        )
    try:
        lines = Path(source).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the prompts in {source} cannot be read: {error}") from error
    return check_templates(lines, source)


def check_templates(lines: Iterable[str], source: str) -> list[str]:
    """Return the templates that lines contain; CLIP_benchmark's placeholder `{c}` becomes `{}`.

    Args:
        lines: one template each; empty ones are skipped.
        source: for messages.

    Raises:
        DataError: if there are none, or one has no placeholder.
    """
    templates = [line.strip().replace("{c}", "{}") for line in lines if line.strip()]
    invalid = [line for line in templates if not has_placeholder(line)]
    if not templates or invalid:
        found = repr(invalid[0]) if invalid else "no lines"
        raise DataError(
            f"{source} has {found}; expected one prompt per line, each with {{}} where the name goes"
        )
    return templates
