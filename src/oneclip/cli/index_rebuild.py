"""`oneclip index --rebuild`: make an index again beside the old one, then replace it."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from oneclip.cli import options
from oneclip.cli.exits import echo_stderr
from oneclip.cli.index_updates import report_update, update_with_progress
from oneclip.errors import ConfigError, OutputError
from oneclip.hub.atomic import publish_folder, write_errors
from oneclip.search import Index
from oneclip.search.catalogue import FILE
from oneclip.search.places import real_root


def rebuild_indexes(places: dict[Path, list[str]], settings: dict[str, Any], choices: dict[str, Any]) -> None:
    """Rebuild indexes; an interrupted rebuild resumes.

    Args:
        places: roots to include by index, in addition to those of the old index.
        settings: of `Index`.
        choices: of `Index.update`; without patterns to exclude, those of the old index.

    Raises:
        OutputError: if a folder cannot be read or another process uses the index; the old index is unchanged.
    """
    for place, roots in places.items():
        _rebuild(place, roots, settings, choices)


def _rebuild(place: Path, given: list[str], settings: dict[str, Any], choices: dict[str, Any]) -> None:
    beside = place.with_name(f"{place.name}.rebuild")
    with ExitStack() as stack:
        old = stack.enter_context(Index(place, create=False)) if (place / FILE).is_file() else None
        excluded = {} if old is None else _excluded(old)
        if old is not None:
            stack.enter_context(old.writing())
            settings = {**settings, "model": settings["model"] or old.catalogue.info("model")}
        new = _open_beside(beside, settings)
        try:
            for root in {real_root(root): None for root in [*excluded, *given]}:
                if not os.path.isdir(root):
                    if choices["prune"]:
                        echo_stderr(f"{root}: no such folder; left out", kind="note")
                        continue
                    _keep_old(f"{root}: no such folder")
                patterns = choices["exclude"] if choices["exclude"] is not None else excluded.get(root)
                result = update_with_progress(new, root, **{**choices, "exclude": patterns})
                report_update(result, new)
                if result.unlisted and not choices["prune"]:
                    _keep_old(result.unlisted[0])
            status = new.status()
            if not status.files:
                raise OutputError(f"no image could be read, so that the index {place} stays as it was")
        finally:
            new.close()
        if old is not None:
            old.close()
        with write_errors(place):
            publish_folder(beside, place, place.with_name(f"{place.name}.old"))
    echo_stderr(f"{status.files} images by {status.model}: {place}")
    options.note_pocket_scope(status.model)


def _keep_old(reason: object) -> NoReturn:
    raise OutputError(
        f"{reason}. The old index stays until everything can be read: run the same command again, or leave this out "
        "with --prune"
    )


def _open_beside(beside: Path, settings: dict[str, Any]) -> Index:
    """Open the unfinished index of an earlier rebuild; start over if another model began it."""
    index = Index(beside, **settings)
    try:
        _ = index.encoder
    except ConfigError:
        if index.metadata is None:
            raise
        index.close()
        shutil.rmtree(beside)
        index = Index(beside, **settings)
    if files := index.status().files:
        echo_stderr(f"resuming: {files} images already done", kind="note")
    return index


def _excluded(index: Index) -> dict[str, list[str]]:
    """Return the patterns to exclude by root."""
    return {
        os.fsdecode(path): json.loads(patterns)
        for path, patterns in index.catalogue.rows("SELECT path, exclude FROM roots ORDER BY id")
    }
