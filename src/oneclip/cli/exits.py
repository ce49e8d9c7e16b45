"""Exit codes, and how an error that reaches the command line is told."""

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
    """What the shell is told."""

    OK = 0
    ERROR = 1  # the command could not do what it was asked
    USAGE = 2  # it was asked in a way that it does not understand
    SKIPPED = 3  # done, but for some inputs that had to be left out
    INTERRUPTED = 130  # Ctrl-C, as shells have it: 128 + SIGINT


def say(text: str, *, kind: str = "") -> None:
    """A line on stderr, its first word in colour where the terminal takes it.

    Args:
        text: what to say; control characters in it, perhaps from a file's name, are shown escaped.
        kind: "error" or "note", put before it.
    """
    prefix = f"{kind}: " if kind else ""
    if kind and sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        prefix = f"\x1b[{'1;31' if kind == 'error' else '36'}m{kind}:\x1b[0m "
    print(prefix + printable(text), file=sys.stderr, flush=True)


@contextmanager
def interruptible(out: str | Path) -> Iterator[None]:
    """A training in which Ctrl-C came a second time, or before there was anything to save: say what there is."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            f"interrupted at once; the last checkpoint in {out}, if there is one, is whole. "
            "Go on with the same command and --resume auto"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def printable(text: str) -> str:
    """Text without what would move a terminal's cursor or change its colours; line breaks stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def explain(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what went wrong, in one line if it can be; with `debug`, the traceback before it.

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
        say(text, kind="error")  # with what is asked for called as it is here
    elif isinstance(error, MemoryError):
        say("the memory is full; a smaller --batch-size needs less", kind="error")
    else:
        hint = "" if debug else "; `oneclip --debug …` shows where"
        say(f"this is a fault of oneclip's own: {type(error).__name__}: {error}{hint}", kind="error")
    return ExitCode.ERROR
