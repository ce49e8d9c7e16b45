"""The `oneclip` command: words in, tables or JSON out. A file for each subcommand.

Only this package prints and exits; what it calls raises from `oneclip.errors` or returns.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code; see `docs/cli.md` for what the codes mean."""
    try:
        from oneclip.cli.app import run

        code = run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # before or after there was a command to tell of it
        code = 130
    _flush()
    if _is_one_of_several():  # threads of gloo have aborted what is taken apart while they live
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    """Write what is left. An output that refuses, such as a full disk, has been told of once, which is enough."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _is_one_of_several() -> bool:
    """Whether this process has met others of a training."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
