"""A JSON file that came from anywhere to a dict, in bounded time and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oneclip.errors import CheckpointError

LARGEST = 2**22  # bytes; configurations have a few thousand, an index of shards some hundred thousand


def read_json(path: Path, largest: int = LARGEST) -> dict[str, Any]:
    """The content of a JSON file, with or without the mark that some editors put before UTF-8.

    Args:
        path: of the file.
        largest: how many bytes it may have.

    Raises:
        CheckpointError: if it cannot be read, is too large, or is no object.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} cannot be read as JSON: it is not a file")
        with path.open("rb") as file:
            data = file.read(largest + 1)
        if len(data) > largest:
            size = path.stat().st_size
            raise CheckpointError(
                f"{path} cannot be read as JSON: it has {size:,} bytes; expected at most {largest:,}"
            )
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, and a JSON object was expected")
    return content
