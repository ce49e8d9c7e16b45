"""Image files, given by path, by folder or by remote folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial

from oneclip.embed.items import Failure, Found, Item
from oneclip.hub.addresses import is_address, list_remote_folder, read_bytes
from oneclip.hub.file_types import EXCLUDED, UnsupportedFiles, is_excluded, split_images, walk_files


class ImageFiles:
    """Source of image files.

    Args:
        name: of the source, for messages.
        paths: paths or addresses of the images.
        failures: paths that lead to no image.
        not_read: images and videos beside them that cannot be read here.
    """

    is_bulky = False

    def __init__(
        self,
        name: str,
        paths: Sequence[str],
        failures: Sequence[Failure] = (),
        not_read: UnsupportedFiles | None = None,
    ) -> None:
        self.name, self.paths, self.failures = name, paths, failures
        self.not_read = not_read or UnsupportedFiles()

    def count(self) -> int | None:
        """Return the number of images and failures."""
        return len(self.paths) + len(self.failures)

    def __iter__(self) -> Iterator[Found]:
        yield from self.failures
        for path in self.paths:
            yield file_item(path)


def file_item(path: str) -> Item:
    """Return the item of a file or address, named by its normalized path."""
    read = partial(read_bytes, path)
    return Item(path, read) if is_address(path) else Item(os.path.normpath(path), read, path)


def find_in_path(
    path: str, exclude: Sequence[str] = EXCLUDED
) -> tuple[list[str], list[Failure], UnsupportedFiles]:
    """List the images that a path means, sorted, with failures and unsupported files.

    A folder is walked for files with the suffix of an image; hidden ones are skipped. Links to folders are not
    followed, except the path itself.

    Args:
        path: of a file or a folder.
        exclude: patterns to leave out of a folder, see `is_excluded`.
    """
    if not os.path.isdir(path):
        if os.path.exists(path):
            return [path], [], UnsupportedFiles()
        return [], [Failure(path, f"{path or repr(path)}: no such file or folder")], UnsupportedFiles()
    failures: list[Failure] = []

    def unreadable(error: OSError) -> None:
        failures.append(Failure(str(error.filename), f"{error.filename} cannot be read: {error.strerror}"))

    images, not_read = split_images(walk_files(path, unreadable, exclude))
    if not images and not failures:
        failures.append(Failure(path, no_images_message(path, not_read)))
    return images, failures, not_read


def find_in_remote_folder(
    address: str, exclude: Sequence[str] = EXCLUDED
) -> tuple[list[str], list[Failure], UnsupportedFiles]:
    """List the images in a remote folder, like `find_in_path`."""
    root = len(address.rstrip("/")) + 1
    images, not_read = split_images(
        p for p in list_remote_folder(address) if not is_excluded(p[root:], exclude)
    )
    failures = [] if images else [Failure(address, no_images_message(address, not_read))]
    return images, failures, not_read


def no_images_message(folder: str, not_read: UnsupportedFiles) -> str:
    """Return the message for a folder without readable images."""
    return f"{folder}: a folder without images (.jpg, .png, .webp, …)" + (
        f"; {not_read.sentence}" if not_read else ""
    )
