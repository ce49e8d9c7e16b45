"""Bodies of requests that can be JSON or a form, checked by a pydantic model."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from oneclip.serve.errors import RequestError
from oneclip.serve.items import bad_item

M = TypeVar("M", bound=BaseModel)


def checked(model: type[M], body: Any) -> M:
    """Return a body as its model.

    Raises:
        RequestValidationError: if it is not one.
    """
    try:
        return model.model_validate(body)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(errors) from error


def read_json(content: bytes) -> Any:
    """Read a JSON value.

    Raises:
        RequestError: 400, if it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the body is not JSON: {error}", code="invalid_json") from error


def split_form(
    form: FormData, *, single: Collection[str], repeated: Collection[str], lists: Collection[str]
) -> tuple[dict[str, Any], list[tuple[str, UploadFile]]]:
    """Separate the fields of a form from its files.

    Args:
        form: of a request.
        single: names of fields with one value.
        repeated: names of fields that can be repeated.
        lists: names of fields that can be repeated, or be a list in JSON.

    Returns:
        The fields, those of `repeated` and `lists` as lists; and the files, each with the name of its field.

    Raises:
        RequestError: 400, for a field of another name, or a list that is not JSON.
    """
    fields: dict[str, Any] = {}
    files: list[tuple[str, UploadFile]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files.append((name, value))
        elif name in lists and value.lstrip().startswith("["):
            found = read_json(value.encode())
            fields.setdefault(name, []).extend(found if isinstance(found, list) else [found])
        elif name in repeated or name in lists:
            fields.setdefault(name, []).append(value)
        elif name in single:
            fields[name] = value
        else:
            raise bad_item(f"unknown field {name[:100]!r}", name[:100], "invalid_value")
    return fields, files
