"""Types for tests of the command line."""

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]  # the fixture `run`: calls `oneclip` with arguments
