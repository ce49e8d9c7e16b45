"""Exit codes, and messages on stderr."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

import typer

from oneclip.errors import OneCLIPError

# messages of newer versions of typer; a number follows the last two
_LONG_TYPE_ERRORS = {
    "a whole number": "Input should be a valid integer, unable to parse string as an integer",
    "a number": "Input should be a valid number, unable to parse string as a number",
    "at least": "Input should be greater than or equal to",
    "at most": "Input should be less than or equal to",
}


class ExitCode(IntEnum):
    """Exit code of a command."""

    OK = 0
    ERROR = 1  # the command failed
    USAGE = 2  # invalid command line
    SKIPPED = 3  # done, but some inputs were skipped
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as in shells


def echo_stderr(text: str, *, kind: str = "") -> None:
    """Print a line on stderr; on a terminal, the prefix is in colour.

    Args:
        text: the line. Control characters, for example in a file name, are escaped.
        kind: "error" or "note" for a prefix.
    """
    prefix = f"{kind}: " if kind else ""
    if kind and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        prefix = f"\x1b[{'1;31' if kind == 'error' else '36'}m{kind}:\x1b[0m "
    print(prefix + escape_control_characters(text), file=sys.stderr, flush=True)


@contextmanager
def hint_resume_on_interrupt(out: str | Path) -> Iterator[None]:
    """Print how to resume a training if Ctrl-C stops it outside the training loop or for a second time, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        echo_stderr(
            f"stopped; the last checkpoint in {out}, if any, is complete. "
            "To resume, run the same command with --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def escape_control_characters(text: str) -> str:
    """Escape characters that would move a terminal's cursor or change its colours; keep line breaks."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def report_error(error: BaseException, *, debug: bool) -> int:
    """Print an error on stderr, in one line if possible; with `debug`, after its traceback.

    Returns:
        The exit code.
    """
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        echo_stderr("interrupted")
        return ExitCode.INTERRUPTED
    if hasattr(error, "format_message"):  # a usage error of typer or click
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "oneclip"
        message = " ".join(error.format_message().split()).rstrip(".").removeprefix("Invalid value: ")
        message = message.replace(": Value error, ", ": ")  # an invalid choice in newer versions of typer
        for name, long in _LONG_TYPE_ERRORS.items():
            message = message.replace(long, f"expected {name}")
        hint = "" if "oneclip " in message else f" (`{command} --help` shows an example)"
        echo_stderr(message + hint, kind="error")
        return ExitCode.USAGE
    if isinstance(error, (OneCLIPError, OSError)):
        text = str(error)
        if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.filename is None:
            text = f"the result could not be written: {error.strerror or error}"
        # errors name arguments of Python; show them as options
        text = text.replace("force=True", "--force").replace("skip_broken", "--skip")
        echo_stderr(text, kind="error")
    elif isinstance(error, ModuleNotFoundError) and error.name == "torch":
        text = "this needs PyTorch, which is not installed: pip install torch. Exported models run without it"
        echo_stderr(text, kind="error")
    elif isinstance(error, MemoryError):
        echo_stderr("out of memory; try a smaller --batch-size", kind="error")
    else:
        hint = "" if debug else "; `oneclip --debug …` shows the traceback"
        echo_stderr(f"this is a bug in oneclip: {type(error).__name__}: {error}{hint}", kind="error")
    return ExitCode.ERROR
