"""Bring an index up to date for a command: progress, what Ctrl-C leaves, and notes about the result."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.images import echo_not_read

if TYPE_CHECKING:
    from oneclip.search import Index
    from oneclip.search.results import UpdateResult

SHOWN_FOLDERS = 5  # that could not be read


def update_with_progress(
    index: Index,
    *roots: str,
    under: str = "",
    exclude: Sequence[str] | None = None,
    prune: bool = False,
    batch_size: int = 32,
) -> UpdateResult:
    """Update an index with progress on stderr; arguments as of `Index.update`.

    Raises:
        typer.Exit: after Ctrl-C, once the message says what is kept.
    """
    from oneclip.cli.progress_bars import message_if_slow, throughput_bar

    folders = " ".join(
        os.path.join(root, under) if under else root for root in roots or index.catalogue.roots()
    )
    try:
        with message_if_slow(f"indexing {folders} …"), throughput_bar("images") as report:
            return index.update(
                *roots, under=under, exclude=exclude, prune=prune, batch_size=batch_size, report=report
            )
    except KeyboardInterrupt:
        echo_stderr(
            f"interrupted: {index.status().files} images are indexed; run the same command to continue"
        )
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def report_update(result: UpdateResult, index: Index, *, pruned: bool = False) -> None:
    """Report on stderr what an update could not read.

    Args:
        result: of the update.
        index: that was updated.
        pruned: whether images of folders that could not be read were removed.
    """
    if result.failures:
        count = f"{result.failed} file{'' if result.failed == 1 else 's'}"
        echo_stderr(
            f"{count} could not be read; `oneclip index status --failed --index {shlex.quote(str(index.path))}` "
            "lists them",
            kind="note",
        )
    for failure in result.unlisted[:SHOWN_FOLDERS]:
        echo_stderr(f"{failure}{'' if pruned else '; its images stay in the index'}", kind="note")
    if len(result.unlisted) > SHOWN_FOLDERS:
        echo_stderr(f"{len(result.unlisted) - SHOWN_FOLDERS} more folders could not be read", kind="note")
    echo_not_read(result.not_read)
