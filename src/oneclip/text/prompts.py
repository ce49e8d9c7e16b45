"""Prompt templates: fill in a class name or a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from oneclip.errors import TextError, TextTypeError

Template: TypeAlias = str | Callable[[str], str]
PLACEHOLDERS = ("{}", "{0}")


def has_placeholder(template: str) -> bool:
    """Return True if a template has a place for the name."""
    return any(placeholder in template for placeholder in PLACEHOLDERS)


def fill_templates(name: str, templates: Sequence[Template]) -> list[str]:
    """Fill a name into each template.

    Args:
        name: of a class, or a label.
        templates: strings with `{}` in place of the name, or functions from the name to a text.

    Raises:
        TextError: if there are no templates, or one has no placeholder.
        TextTypeError: if a function does not return a string.
    """
    if isinstance(templates, str) or not len(templates):
        raise TextError(f"templates is {templates!r}; expected a list with at least one template")
    return [_fill_template(template, name) for template in templates]


def _fill_template(template: Template, name: str) -> str:
    if isinstance(template, str):
        if not has_placeholder(template):
            raise TextError(
                f"the template {template!r} has no {{}} where the label goes, as in 'a photo of a {{}}'"
            )
        placeholder = next(each for each in PLACEHOLDERS if each in template)
        return template.replace(placeholder, name)  # str.format would fail on other braces
    text = template(name)
    if not isinstance(text, str):
        raise TextTypeError(f"the template returned {type(text).__name__} for {name!r}; expected a string")
    return text
