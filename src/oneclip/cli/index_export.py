"""`oneclip index export`: hand an index over to Lance, Qdrant or PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from oneclip.cli.exits import ExitCode, echo_stderr
from oneclip.cli.progress_bars import progress_bar
from oneclip.search import Index

SHOWN_PATHS = 5


def export_index(
    place: Path, to: str, target: str, *, overwrite: bool, name: str | None, as_json: bool
) -> None:
    """Export an index, or bring an earlier export up to date.

    Args:
        place: folder of the index.
        to: "lance", "qdrant" or "pgvector".
        target: path or address of a dataset, URL of a server, or DSN of a database.
        overwrite: replace a Lance dataset.
        name: of the collection or table.
        as_json: print the result as JSON.
    """
    from oneclip.search import handover

    if to != "lance" and overwrite:
        raise typer.BadParameter(f"--overwrite works only with --to lance; {to} is brought up to date")
    if to == "lance" and name is not None:
        raise typer.BadParameter("--name works only with --to qdrant or pgvector")
    with Index(place, create=False) as index, progress_bar("images", index.status().files) as advance:
        if to == "lance":
            result = handover.export_lance(index, target, overwrite=overwrite, progress=advance)
        elif to == "qdrant":
            names: dict[str, Any] = {} if name is None else {"collection": name}
            result = handover.export_qdrant(index, target, progress=advance, **names)
        else:
            names = {} if name is None else {"table": name}
            result = handover.export_pgvector(index, target, progress=advance, **names)
    for path in result.skipped[:SHOWN_PATHS]:
        echo_stderr(f"skipped {path}: its name is not valid Unicode")
    if len(result.skipped) > SHOWN_PATHS:
        echo_stderr(f"skipped {len(result.skipped) - SHOWN_PATHS} more")
    echo_stderr(f"{result.location}: {result.rows} images ({result})")
    if result.vector_index is not None:
        recalls = [
            f"{recall:.3f} of the 10 nearest found for {what}"
            for recall, what in ((result.image_recall, "images"), (result.text_recall, "texts"))
            if recall is not None
        ]
        echo_stderr(
            ": ".join([f"approximate index {result.vector_index}", *filter(None, [", ".join(recalls)])])
        )
    if as_json:
        print(json.dumps(asdict(result), indent=2))
    if result.skipped:
        raise typer.Exit(ExitCode.SKIPPED)
