"""The word after `-o` to what it means: a file, a folder of parts, or a Lance dataset; checked before the work.

A folder may lie behind an address (`s3://bucket/vectors`); it is a string then, and a path otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal, TypeVar

from oneclip.embed.folders import LocalFolder, RemoteFolder
from oneclip.embed.formats import FORMATS, format_of, lance
from oneclip.embed.formats.lance import check_lance
from oneclip.embed.parts import check_folder
from oneclip.errors import ConfigError, DataError, OutputError
from oneclip.hub.addresses import is_address, remote

T = TypeVar("T")
Kind = Literal["file", "folder", "dataset"]


def located(output: str | Path) -> str | Path:
    """A path; or an address as a string, unless it is a file's on this machine.

    Raises:
        ConfigError: for an address that was made a path, which has lost a slash.
    """
    word = str(output)
    if not is_address(word):
        if (
            isinstance(output, Path)
            and is_address(word.replace(":/", "://", 1))
            and not output.parent.is_dir()
        ):
            raise ConfigError(f"{word} is a path that was an address; give the address as a string")
        return Path(output)
    if word.partition(":")[0].lower() in ("file", "local"):
        return Path(remote(word)[1])
    return word


def kind_of(output: str | Path) -> Kind:
    """What an output is: a dataset or a file by its suffix; a folder if one is there, or without any suffix.

    Raises:
        ConfigError: for a name with any other suffix, and for what cannot lie behind an address.
    """
    if isinstance(output, str):
        if Path(output).suffix.lower() in (*FORMATS, lance.SUFFIX):
            raise ConfigError(
                f"{output} is an address, and what is written there is a folder of parts; name a folder, such as "
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
        raise ConfigError(f"{output} must end in {known}, which say how it is written, or be a folder")
    return "folder"


def check_output(output: str | Path, folder_suffix: str, *, overwrite: bool = False) -> None:
    """Find out before the work, not after it, that its result cannot be written.

    Raises:
        ConfigError: for a suffix that is no format.
        OutputError: if the folder is not there or not ours to write in, a file is a folder, or a file is there that
            holds no vectors and is not to be overwritten.
        MissingExtraError: if the library of the format is not installed.
    """
    output = located(output)
    kind = kind_of(output)
    if isinstance(output, str):
        format_of(folder_suffix).check()
        folder = RemoteFolder(output)
        check_folder(folder, folder.names())
        folder.check_writable()
        return
    if kind == "dataset":
        check_lance(output, overwrite=overwrite)
    elif kind == "folder":
        format_of(folder_suffix).check()
        if output.exists() and not output.is_dir():
            raise OutputError(f"{output} is a file, not a folder of vectors; name another output")
        check_folder(LocalFolder(output), LocalFolder(output).names())
    else:
        format_of(output.suffix).check()
        if output.is_dir():
            raise OutputError(f"{output} is a folder; name a file in it, such as {output / 'vectors.npz'}")
        if output.exists() and not overwrite:
            read_or_refuse(output, format_of(output.suffix).read_digests)
    parent = output if output.is_dir() else output.parent
    if not parent.is_dir():
        raise OutputError(f"{output} cannot be written: there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK):
        raise OutputError(
            f"{output} cannot be written: the folder {parent.absolute()} is not yours to write in"
        )


def read_or_refuse(output: Path, read: Callable[[IO[bytes], object], T]) -> T:
    """What is in a file of vectors; what is none stays as it is.

    Raises:
        OutputError: for such a one.
    """
    try:
        with LocalFolder(output.parent).open(output.name) as file:
            return read(file, output)
    except DataError as error:
        raise OutputError(f"{error}. Name another output, or --overwrite to replace it") from error
