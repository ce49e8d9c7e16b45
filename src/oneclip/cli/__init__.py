"""The `oneclip` command, with one file per subcommand.

Only this package prints and exits. The library returns results, raises errors of `oneclip.errors`, and logs to the
logger "oneclip".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit; `docs/cli.md` lists the exit codes."""
    try:
        from oneclip.cli.app import run

        code = run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:  # outside of a command, which would have reported it
        code = 130
    _flush()
    if _in_process_group():  # gloo's threads may abort while the interpreter shuts down
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    """Flush both streams. A failure, such as a full disk, was already reported, so it is ignored here."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _in_process_group() -> bool:
    """Return True if this process has joined a distributed training."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
