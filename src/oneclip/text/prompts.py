"""Templates and the name of a class to the texts that stand for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from oneclip.errors import TextError, TextTypeError

Template: TypeAlias = str | Callable[[str], str]
PLACES = ("{}", "{0}")


def prompts(name: str, templates: Sequence[Template]) -> list[str]:
    """Fill each template with the name of a class.

    Args:
        name: of the class.
        templates: strings with `{}` where the name goes, or functions of the name.

    Raises:
        TextError: if there are no templates, or one has no place for the name.
        TextTypeError: if a function gives no string.
    """
    if isinstance(templates, str) or not len(templates):
        raise TextError(f"templates is {templates!r}, and must be a list with at least one")
    return [_filled(template, name) for template in templates]


def _filled(template: Template, name: str) -> str:
    if isinstance(template, str):
        place = next((place for place in PLACES if place in template), None)
        if place is None:
            raise TextError(
                f"the template {template!r} has no {{}} where the label goes, as in 'a photo of a {{}}'"
            )
        return template.replace(place, name)
    text = template(name)
    if not isinstance(text, str):
        raise TextTypeError(f"the template gave {type(text).__name__} for {name!r}; a string was expected")
    return text
