"""Find the images that paths on a command line name, and report what was left out."""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer

from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.embed.items import Failure
from oneclip.embed.sources.files import find_in_path
from oneclip.errors import ImageError
from oneclip.hub.file_types import UnsupportedFiles

MAX_REASON_CHARACTERS = 500  # longer reasons are cut: a name may be the content of a file


def find_images(paths: Sequence[str], *, skip: bool) -> tuple[list[str], list[Failure], UnsupportedFiles]:
    """Find images, each once: files in the order given, the content of a folder sorted.

    Folders are searched recursively for files with an image suffix. Hidden files and folders are ignored. Symbolic
    links to folders are followed only if the link itself is given.

    Args:
        paths: files and folders.
        skip: collect paths that are missing or empty instead of raising.

    Returns:
        paths of images, paths that are missing or empty, and counts of images and videos in formats that are not read.

    Raises:
        ImageError: at the first path that is missing or empty; with `skip`, only if no image is found.
    """
    found: dict[str, str] = {}
    failures: list[Failure] = []
    not_read = UnsupportedFiles()
    for path in paths:
        images, problems, others = find_in_path(path)
        not_read.update(others)
        if problems and not skip:
            raise ImageError(f"{problems[0].reason}; --skip skips such paths")
        failures += problems
        for image in images:
            found.setdefault(os.path.normpath(image), image)
    if not found:
        for problem in failures:
            echo_stderr(f"skipped {_line(problem)}")
        raise ImageError("no images found")
    return list(found.values()), failures, not_read


def report_and_exit(
    done: int,
    total: int,
    what: str,
    skipped: Sequence[Failure],
    not_read: UnsupportedFiles,
    *,
    interrupted: bool,
    skip: bool,
) -> None:
    """Report on stderr what was skipped, and exit with the matching code.

    Args:
        done: number of images with a result.
        total: number of images that were found.
        what: the end of the sentence "4 of 8 images are classified".
        skipped: images that could not be read.
        not_read: images and videos in formats that are not read.
        interrupted: if Ctrl-C stopped the command.
        skip: if skipping images was allowed.

    Raises:
        ImageError: if no image has a result.
    """
    echo_skipped(skipped, skip=skip)
    echo_not_read(not_read)
    if interrupted:
        echo_stderr(f"interrupted: {done} of {total} images {what}")
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not done:
        raise ImageError("no image could be read")
    if skipped:
        raise typer.Exit(ExitCode.SKIPPED if skip else ExitCode.ERROR)


def echo_skipped(skipped: Sequence[Failure], limit: int = 20, *, skip: bool = True) -> None:
    """List unusable inputs on stderr: the first `limit` by name, the others as a count.

    Args:
        skipped: the inputs.
        limit: how many are listed.
        skip: if skipping them was allowed; otherwise the line says that they cannot be read.
    """
    action = "skipped" if skip else "cannot read"
    for failure in skipped[:limit]:
        message = _line(failure)
        if len(message) > MAX_REASON_CHARACTERS:
            message = f"{message[:MAX_REASON_CHARACTERS]}…"
        echo_stderr(f"{action} {message}")
    if len(skipped) > limit:
        echo_stderr(f"{action} {len(skipped) - limit} more")


def _line(failure: Failure) -> str:
    """Return "a.png: empty (0 bytes)" for the reason "a.png is empty (0 bytes)"."""
    is_shorter = failure.short_reason != failure.reason
    return f"{failure.name}: {failure.short_reason}" if is_shorter else str(failure)


def echo_not_read(not_read: UnsupportedFiles) -> None:
    """Count on stderr, in one line, images and videos in formats that are not read."""
    if not_read:
        echo_stderr(not_read.sentence, kind="note")
