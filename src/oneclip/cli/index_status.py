"""`oneclip index status`: tables and JSON of indexes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oneclip.cli.exits import echo_stderr
from oneclip.cli.search_output import short_path
from oneclip.errors import OneCLIPError
from oneclip.search import Index, IndexStatus
from oneclip.search.catalogue import FILE
from oneclip.search.places import index_home


def print_one(place: Path, *, as_json: bool, failed: bool) -> None:
    """Print the state of an index, or only the files that could not be read."""
    status, failures = _read(place, failed)
    if as_json:
        print(json.dumps(_json(status, failures), indent=2))
        return
    from oneclip.cli.table_output import Column, print_table

    if failed:
        _print_failures(failures or [])
        return
    rows = [
        ("folder", root + ("" if found else " (not reachable now)")) for root, found in status.roots.items()
    ]
    rows += [
        ("images", f"{status.files:,} files, {status.contents:,} different"),
        ("not readable", f"{status.failed:,} files" + (" (--failed lists them)" if status.failed else "")),
        ("deleted", f"{status.dead_rows:,} embeddings left until compaction"),
        ("model", status.model),
        (
            "precision",
            ", decode ".join(status.metadata[key] for key in ("precision", "decode") if status.metadata),
        ),
        ("updated", status.updated_at or "never"),
        ("index", f"{status.path} ({status.bytes / 1e6:,.1f} MB, {status.segments} segments)"),
    ]
    print_table([Column(""), Column("")], [list(row) for row in rows])


def print_dataset(location: str, *, as_json: bool, recall: bool) -> None:
    """Print the state of a Lance dataset.

    Args:
        location: path or address.
        as_json: print JSON instead of a table.
        recall: measure the recall of its approximate index, which reads all vectors.
    """
    from oneclip.cli.table_output import Column, print_table
    from oneclip.search.handover import LanceSearch

    with LanceSearch(location) as dataset:
        status = dataset.status(recall=recall)
    if as_json:
        print(json.dumps(asdict(status), indent=2))
        return
    search = "exact, without an index"
    if status.vector_index is not None:
        search = f"{status.vector_index}, {status.probes} of {status.partitions} partitions read"
        search += f", {status.unindexed:,} images not in it yet" if status.unindexed else ""
    if status.image_recall is not None:
        search += f"; recall {status.image_recall:.3f} of the 10 nearest images"
    rows = [
        ("images", f"{status.rows:,}"),
        ("search", search),
        ("model", status.metadata.model),
        ("precision", f"{status.metadata.precision}, decode {status.metadata.decode}"),
        ("dataset", f"{status.location}, version {status.version}"),
    ]
    print_table([Column(""), Column("")], [list(row) for row in rows])


def print_all(*, as_json: bool, failed: bool) -> None:
    """Print a line about each index in the user's data folder, or the files that could not be read."""
    from oneclip.cli.table_output import Column, print_table

    found = list(_read_all(failed))
    if as_json:
        print(json.dumps([_json(*one) for one in found], indent=2))
    elif failed:
        _print_failures([failure for _, failures in found for failure in failures or []])
    elif found:
        rows = [
            [
                ", ".join(
                    short_path(root) + ("" if there else " (not reachable now)")
                    for root, there in one.roots.items()
                ),
                one.model,
                f"{one.files:,}",
                f"{one.failed:,}",
                f"{one.bytes / 1e6:,.1f} MB",
                (one.updated_at or "never")[:16].replace("T", " "),
            ]
            for one, _ in found
        ]
        columns = [
            Column("folder", "cyan"),
            Column("model"),
            Column("images", right=True),
            Column("not readable", right=True, optional=True),
            Column("size", right=True, optional=True),
            Column("updated", optional=True),
        ]
        print_table(columns, rows)
    if not found:
        echo_stderr(f"no indexes in {index_home()}; `oneclip index ROOT` makes one", kind="note")


def _read(place: Path, failed: bool) -> tuple[IndexStatus, list[tuple[str, str]] | None]:
    with Index(place, create=False) as index:
        failures = [(one.name, one.reason) for one in index.failures()] if failed else None
        return index.status(), failures


def _read_all(failed: bool) -> Iterator[tuple[IndexStatus, list[tuple[str, str]] | None]]:
    home = index_home()
    for place in sorted(home.iterdir()) if home.is_dir() else ():
        if (place / FILE).is_file():
            try:
                yield _read(place, failed)
            except OneCLIPError as error:
                echo_stderr(f"{place}: {error}", kind="note")


def _print_failures(failures: list[tuple[str, str]]) -> None:
    from oneclip.cli.table_output import Column, print_table

    if failures:
        print_table([Column("image", "cyan"), Column("reason")], [list(one) for one in failures])
    else:
        echo_stderr("no file failed", kind="note")


def _json(status: IndexStatus, failures: list[tuple[str, str]] | None) -> dict[str, Any]:
    answer = asdict(status)
    if failures is not None:
        answer["failures"] = [{"path": path, "reason": reason} for path, reason in failures]
    return answer
