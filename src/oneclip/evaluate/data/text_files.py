"""Read text and JSON files that describe a data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oneclip.errors import DataError


def read_text(path: Path) -> str:
    """Read a text file in UTF-8.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; `where` is for the message.

    Raises:
        DataError: if it is not valid.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON: {error}") from error
