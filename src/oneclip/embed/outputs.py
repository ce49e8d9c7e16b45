"""Interpret the output option (a file, a folder of parts, or a Lance dataset) and check it before the work starts.

A folder may be an address (`s3://bucket/vectors`), represented by a string; all else is a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, TypeVar

from oneclip.embed.folders import LocalOutputFolder, RemoteOutputFolder
from oneclip.embed.formats import FORMATS, get_format, lance
from oneclip.embed.formats.lance import check_lance
from oneclip.embed.parts import check_folder
from oneclip.errors import ConfigError, DataError, OutputError
from oneclip.hub.addresses import is_address, open_filesystem

T = TypeVar("T")
OutputKind = Literal["file", "folder", "dataset"]


def parse_output(output: str | Path) -> str | Path:
    """Return the output as a path, or as a string for a remote address.

    Raises:
        ConfigError: for an address that was converted to a path and lost a slash.
    """
    word = str(output)
    if not is_address(word):
        if (
            isinstance(output, Path)
            and is_address(word.replace(":/", "://", 1))
            and not output.parent.is_dir()
        ):
            raise ConfigError(
                f"{word} looks like an address that was converted to a path; pass the address as a string"
            )
        return Path(output)
    if word.partition(":")[0].lower() in ("file", "local"):
        return Path(open_filesystem(word)[1])
    return word


def output_kind(output: str | Path) -> OutputKind:
    """Return the kind of an output: a dataset or file by its suffix; otherwise a folder.

    Raises:
        ConfigError: for any other suffix, and for a file or dataset behind an address.
    """
    if isinstance(output, str):
        if Path(output).suffix.lower() in (*FORMATS, lance.SUFFIX):
            raise ConfigError(
                f"{output} is a remote file, but only a folder of parts can be written there; name a folder, such as "
                f"{output.rpartition('/')[0]}/vectors"
            )
        return "folder"
    suffix = output.suffix.lower()
    if suffix == lance.SUFFIX:
        return "dataset"
    if suffix in FORMATS:
        return "file"
    if output.suffix and not output.is_dir():
        known = " or ".join((*FORMATS, lance.SUFFIX))
        raise ConfigError(f"{output} must end in {known}, or be a folder")
    return "folder"


def check_output(output: str | Path, folder_suffix: str, *, overwrite: bool = False) -> None:
    """Check before the work starts that the output can be written.

    Raises:
        ConfigError: for an unknown suffix.
        OutputError: if the parent folder does not exist or is not writable, a file is a folder, or an existing file
            does not contain embeddings and must not be overwritten.
        MissingExtraError: if the library of the format is not installed.
    """
    output = parse_output(output)
    kind = output_kind(output)
    if isinstance(output, str):
        get_format(folder_suffix).check()
        folder = RemoteOutputFolder(output)
        check_folder(folder, folder.names())
        folder.check_writable()
        return
    if kind == "dataset":
        check_lance(output, overwrite=overwrite)
    elif kind == "folder":
        get_format(folder_suffix).check()
        if output.exists() and not output.is_dir():
            raise OutputError(f"{output} is a file, not a folder; choose another output")
        check_folder(LocalOutputFolder(output), LocalOutputFolder(output).names())
    else:
        get_format(output.suffix).check()
        if output.is_dir():
            raise OutputError(f"{output} is a folder; name a file in it, such as {output / 'vectors.npz'}")
        if output.exists() and not overwrite:
            read_or_refuse(output, get_format(output.suffix).read_digests)
    parent = output if output.is_dir() else output.parent
    if not parent.is_dir():
        raise OutputError(f"{output} cannot be written: the folder {parent} does not exist; create it first")
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"{output} cannot be written: no permission to write to the folder {parent.absolute()}"
        )


def read_or_refuse(output: Path, read: Callable[[IO[bytes], object], T]) -> T:
    """Read an existing output file.

    Raises:
        OutputError: if it does not contain embeddings; the file is not changed.
    """
    try:
        with LocalOutputFolder(output.parent).open(output.name) as file:
            return read(file, output)
    except DataError as error:
        raise OutputError(f"{error}. Choose another output, or use --overwrite to replace it") from error
