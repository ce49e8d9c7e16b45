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


class ExitCode(IntEnum):
    """Exit code of a command."""

    OK = 0
    ERROR = 1  # the command failed
    USAGE = 2  # a wrong command line
    SKIPPED = 3  # done, but some inputs were left out
    INTERRUPTED = 130  # Ctrl-C, as shells have it: 128 + SIGINT


def say(text: str, *, kind: str = "") -> None:
    """Print a line on stderr, its first word in colour on a terminal.

    Args:
        text: the line; control characters in it, perhaps from a file's name, are escaped.
        kind: "error" or "note", put before it.
    """
    prefix = f"{kind}: " if kind else ""
    if kind and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        prefix = f"\x1b[{'1;31' if kind == 'error' else '36'}m{kind}:\x1b[0m "
    print(prefix + printable(text), file=sys.stderr, flush=True)


@contextmanager
def interruptible(out: str | Path) -> Iterator[None]:
    """Say what is left after a second Ctrl-C in a training, or one before anything could be saved."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            f"stopped; the last checkpoint in {out}, if there is one, is complete. "
            "Resume with the same command and --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def printable(text: str) -> str:
    """Text without what would move a terminal's cursor or change its colours; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def explain(error: BaseException, *, debug: bool) -> int:
    """Print an error on stderr, in one line if possible; with `debug`, after its traceback.

    Returns:
        the exit code.
    """
    if debug:
        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return ExitCode.INTERRUPTED
    if hasattr(error, "format_message"):  # a usage error of typer's, by whatever module it comes from
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "oneclip"
        message = " ".join(error.format_message().split()).rstrip(".").removeprefix("Invalid value: ")
        message = message.replace(": Value error, ", ": ")  # newer typers say so of a choice that is none
        hint = "" if "oneclip " in message else f" (`{command} --help` shows an example)"
        say(message + hint, kind="error")
        return ExitCode.USAGE
    if isinstance(error, (OneCLIPError, OSError)):
        text = str(error)
        if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.filename is None:
            text = f"a result could not be written: {error.strerror or error}"
        text = text.replace("force=True", "--force").replace("skip_broken", "--skip")
        say(text, kind="error")  # with arguments by their names as options
    elif isinstance(error, MemoryError):
        say("out of memory; a smaller --batch-size needs less", kind="error")
    else:
        hint = "" if debug else "; `oneclip --debug …` shows where"
        say(f"this is a bug in oneclip: {type(error).__name__}: {error}{hint}", kind="error")
    return ExitCode.ERROR
