"""The command line as a test sees it."""

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    """What a shell would see of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]  # the fixture `run`: calls `oneclip` with arguments
