"""Find the images that paths on a command line name, and report what was left out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer

from oneclip.cli.exits import ExitCode, say
from oneclip.embed.items import Failure
from oneclip.embed.sources.files import find_in_path
from oneclip.errors import ImageError
from oneclip.hub.file_types import NotRead

LONGEST = 500  # characters of a reason that are shown; a name may be a whole file


def find_pictures(paths: Sequence[str], *, skip: bool) -> tuple[list[str], list[Failure], NotRead]:
    """Find the pictures that paths mean, each once: files in the order given, folders sorted; count what is not read.

    In a folder, and the folders in it, files with a picture's suffix count; what is hidden does not.
    Symbolic links to folders are not followed below the one that was named.

    Args:
        paths: files and folders.
        skip: collect what is missing or empty instead of raising.

    Raises:
        ImageError: unless `skip`, at the first path that leads to no picture; with it, if none does.
    """
    found: dict[str, str] = {}
    unusable: list[Failure] = []
    not_read = NotRead()
    for path in paths:
        pictures, problems, others = find_in_path(path)
        not_read.update(others)
        if problems and not skip:
            raise ImageError(f"{problems[0].reason}; --skip leaves such paths out")
        unusable += problems
        for picture in pictures:
            found.setdefault(os.path.normpath(picture), picture)
    if not found:
        for problem in unusable:
            say(f"skipped {problem.reason}")
        raise ImageError("no picture is left")
    return list(found.values()), unusable, not_read


def finish(
    done: int,
    total: int,
    what: str,
    skipped: Sequence[Failure],
    not_read: NotRead,
    *,
    interrupted: bool,
    skip: bool,
) -> None:
    """Say on stderr what was left out, and exit with the code that the results deserve.

    Args:
        done: images that have a result.
        total: images that were found.
        what: what was done with those that have one, as in "4 of 8 images are classified".
        skipped: what could not be read.
        not_read: what is not read here.
        interrupted: whether Ctrl-C came before the end.
        skip: whether leaving images out was allowed.

    Raises:
        ImageError: if no image has a result.
    """
    tell_skipped(skipped)
    tell_not_read(not_read)
    if interrupted:
        say(f"interrupted: {done} of {total} images {what}")
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not done:
        raise ImageError("no image could be read")
    if skipped:
        raise typer.Exit(ExitCode.SKIPPED if skip else ExitCode.ERROR)


def tell_skipped(skipped: Sequence[Failure], limit: int = 20) -> None:
    """Name on stderr what was left out, and count what is too much to name."""
    for failure in skipped[:limit]:
        told = str(failure)
        say(f"skipped {told if len(told) <= LONGEST else f'{told[:LONGEST]}…'}")
    if len(skipped) > limit:
        say(f"skipped {len(skipped) - limit} more")


def tell_not_read(not_read: NotRead) -> None:
    """Say on stderr, in one line, what was found and not read for want of a package or of a way to read it."""
    if not_read:
        say(not_read.sentence, kind="note")
