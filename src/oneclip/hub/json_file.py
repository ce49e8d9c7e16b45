"""Read JSON files from untrusted sources with bounded time and memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from oneclip.errors import CheckpointError

MAX_BYTES = 2**22  # bytes; a configuration has some thousand, an index of shards some hundred thousand


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a JSON object from a UTF-8 file, with or without a byte order mark.

    Args:
        path: of the file.
        max_bytes: largest accepted size of the file.

    Raises:
        CheckpointError: if the file cannot be read, is too large, or does not contain a JSON object.
    """
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} cannot be read as JSON: it is not a file")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            size = path.stat().st_size
            raise CheckpointError(
                f"{path} cannot be read as JSON: it has {size:,} bytes; expected at most {max_bytes:,}"
            )
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}; expected a JSON object")
    return content
