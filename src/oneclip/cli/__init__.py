"""The `oneclip` command: words in, tables or JSON out. A file for each subcommand.

Only this package prints and exits; what it calls raises from `oneclip.errors` or returns.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code; see `docs/cli.md` for what the codes mean."""
    try:
        from oneclip.cli.app import run

        sys.exit(run(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:  # before or after there was a command to tell of it
        sys.exit(130)
