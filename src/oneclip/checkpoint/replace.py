"""Files to a folder that is either whole or not there."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oneclip.errors import OneCLIPError, OutputError


@contextmanager
def replacing_folder(folder: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Give a folder to write files to, and put it in the place of another at once when all are written.

    Args:
        folder: where the files belong; folders above it are made.
        force: replace a folder that is there, if all it holds are files that were written anew.

    Yields:
        An empty folder beside it.

    Raises:
        OutputError: if something is there that may not be replaced, or writing fails; what stood there before is
            untouched.
    """
    target = Path(os.path.realpath(folder))
    there = names_in(target)
    if there and not force:
        raise OutputError(f"{folder} is there already and not empty; it is replaced only with force=True")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if strangers := sorted(there - names_in(temporary)):
            raise OutputError(
                f"{folder} also holds {', '.join(strangers[:5])}, which belong to no model written here; "
                "choose another folder, or move them away"
            )
        _sync(temporary)
        if target.exists():
            os.rename(target, old)
        os.rename(temporary, target)
    except OneCLIPError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder} could not be written: {error.strerror}. Nothing that was there is lost"
        ) from error
    finally:
        if old.exists() and not target.exists():
            os.rename(old, target)
        for leftover in (temporary, old):
            with suppress(OSError):
                shutil.rmtree(leftover)


def names_in(folder: Path) -> set[str]:
    """What lies in a folder; nothing if there is none."""
    try:
        return {entry.name for entry in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:  # a file is there, or the folder may not be read
        raise OutputError(f"{folder} cannot be written: {error.strerror}") from error


def _sync(folder: Path) -> None:
    """Have the disk hold all files before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
