"""File types by suffix: images that can be read, images that need an extra, and archives.

Folders, tar files and remote folders are listed by these rules. A file that the user names is always tried.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec

from oneclip.installation import install_command

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# Folders of thumbnails and deleted files that Synology, QNAP, Windows and macOS create.
EXCLUDED = ("@eaDir", "@__thumb", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX")

_PILLOW = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".qoi"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".ico", ".icns", ".cur", ".dds", ".pcx", ".psd"),
        *(".sgi", ".ras", ".xbm", ".xpm", ".blp", ".pcd"),
    )
)
# Formats that need an extra: the module that reads them, the extra that installs it, the suffixes.
_EXTRAS = (
    ("pillow_heif", "heif", (".heic", ".heif", ".hif", ".heics", ".heifs")),
    ("pillow_jxl", "heif", (".jxl",)),
    (
        *("rawpy", "raw"),
        (
            *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf", ".rw2"),
            *(".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".mrw", ".kdc", ".dcr", ".erf", ".rwl", ".mos"),
        ),
    ),
)
# Formats that are never read, with the remedy or the reason.
_OTHERS = (
    ("render them to PNG first", (".svg", ".svgz", ".eps", ".wmf", ".emf")),
    ("convert them to PNG first", (".psb", ".exr", ".hdr", ".jxr", ".wdp", ".xcf", ".fits")),
    (
        "videos",
        (
            *(".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".3gp", ".3g2"),
            *(".mts", ".m2ts", ".insv"),
        ),
    ),
)


def image_suffixes() -> frozenset[str]:
    """Return the suffixes of images that can be read in this environment, in lower case with the dot."""
    return _PILLOW.union(*(suffixes for module, _, suffixes in _EXTRAS if _is_installed(module)))


def is_image(name: str, suffixes: frozenset[str] | None = None) -> bool:
    """Return whether a file name has the suffix of a readable image; hidden files do not count.

    Args:
        name: of the file, with or without its folder.
        suffixes: `image_suffixes()`, computed once by callers that check many files.
    """
    name = os.path.basename(name)
    return not name.startswith(".") and suffix_of(name) in (suffixes or image_suffixes())


def suffix_of(name: str) -> str:
    """Return the suffix of a file name in lower case with its dot, or ""."""
    return os.path.splitext(name)[1].lower()


class UnsupportedFiles(Counter[str]):
    """Number of images and videos by suffix that were found and cannot be read here."""

    def count_file(self, name: str, count: int = 1) -> None:
        """Count a file if its suffix is that of an unsupported image or video and it is not hidden."""
        suffix = suffix_of(name)
        if (suffix in _EXTRA_BY_SUFFIX or suffix in _REASONS) and not os.path.basename(name).startswith("."):
            self[suffix] += count

    def __str__(self) -> str:
        """List the counts with remedies: `.heic 12, .jxl 1 (pip install 'oneclip[heif]'), .mov 3 (videos)`."""
        by_remedy: dict[str, list[str]] = {}
        for suffix, count in sorted(self.items(), key=lambda item: (-item[1], item[0])):
            extra = _EXTRA_BY_SUFFIX.get(suffix)
            remedy = install_command(extra) if extra is not None else _REASONS[suffix]
            by_remedy.setdefault(remedy, []).append(f"{suffix} {count}")
        return ", ".join(f"{', '.join(counts)} ({remedy})" for remedy, counts in by_remedy.items())

    @property
    def sentence(self) -> str:
        """Message `17 files were not read: …`, or "" if no file was counted."""
        total = self.total()
        return f"{total} file{' was' if total == 1 else 's were'} not read: {self}" if total else ""


def walk_files(
    folder: str | os.PathLike[str],
    onerror: Callable[[OSError], None] | None = None,
    exclude: Sequence[str] = EXCLUDED,
) -> Iterator[str]:
    """Yield all files below a folder, sorted; hidden folders and links to folders are not followed.

    Args:
        folder: where to start.
        onerror: called with the error of each folder that cannot be listed.
        exclude: shell patterns of files and folders to leave out.
    """
    for location, folders, names in os.walk(folder, onerror=onerror):
        inside = os.path.relpath(location, folder)

        def is_wanted(name: str, inside: str = inside) -> bool:
            return not _fits(name if inside == os.curdir else os.path.join(inside, name), exclude)

        folders[:] = sorted(name for name in folders if not name.startswith(".") and is_wanted(name))
        yield from (os.path.join(location, name) for name in sorted(names) if is_wanted(name))


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Return whether a pattern matches a path or a folder above it.

    Args:
        path: relative to the folder that the user named.
        exclude: shell patterns; `*` also matches slashes. A pattern without a slash is compared with names only.
    """
    parts = path.replace(os.sep, "/").split("/")
    return any(_fits("/".join(parts[: i + 1]), exclude) for i in range(len(parts)))


def _fits(path: str, exclude: Sequence[str]) -> bool:
    path = os.path.normcase(path).replace(os.sep, "/")
    names, paths = _compiled(tuple(exclude))
    return names(path.rpartition("/")[2]) is not None or paths(path) is not None


@lru_cache
def _compiled(exclude: tuple[str, ...]) -> tuple[Callable[[str], object], Callable[[str], object]]:
    """Return the matchers of the patterns without a slash and of those with one, for names and for paths."""
    patterns = [os.path.normcase(pattern).replace(os.sep, "/").rstrip("/") for pattern in exclude]
    names, paths = (
        "|".join(fnmatch.translate(pattern) for pattern in patterns if ("/" in pattern) == has_slash)
        for has_slash in (False, True)
    )
    return re.compile(names or "(?!)").match, re.compile(paths or "(?!)").match


def split_images(files: Iterable[str]) -> tuple[list[str], UnsupportedFiles]:
    """Split files into readable images and a count of unsupported ones."""
    suffixes, images, not_read = image_suffixes(), [], UnsupportedFiles()
    for file in files:
        if is_image(file, suffixes):
            images.append(file)
        else:
            not_read.count_file(file)
    return images, not_read


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


_EXTRA_BY_SUFFIX = {suffix: extra for _, extra, suffixes in _EXTRAS for suffix in suffixes}
_REASONS = {suffix: reason for reason, suffixes in _OTHERS for suffix in suffixes}
