"""Which files are images, which could be with an extra, and which hold many of them: by the end of their names.

Folders, tar files and addresses are listed by this one rule. A file that is named itself may be called anything.
"""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
# Folders of thumbnails and of deleted files, as Synology, QNAP, Windows and macOS make them beside what was stored.
EXCLUDED = ("@eaDir", "@__thumb", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX")

_PILLOW = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".qoi"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".ico", ".icns", ".cur", ".dds", ".pcx", ".psd"),
        *(".sgi", ".ras", ".xbm", ".xpm", ".blp", ".pcd"),
    )
)
# What an extra adds: the module that reads it, the extra that installs that, the suffixes.
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
# What is not read at all, and why.
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
    """The suffixes of images that can be read here, in lower case with their dot."""
    return _PILLOW.union(*(suffixes for module, _, suffixes in _EXTRAS if _is_installed(module)))


def is_image(name: str, suffixes: frozenset[str] | None = None) -> bool:
    """Whether a file is called like an image that can be read here; what is hidden is not.

    Args:
        name: of the file, with or without its folder.
        suffixes: `image_suffixes()`, from whoever asks for many files.
    """
    name = os.path.basename(name)
    return not name.startswith(".") and suffix_of(name) in (suffixes or image_suffixes())


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot; "" if it has none."""
    return os.path.splitext(name)[1].lower()


class NotRead(Counter[str]):
    """How many images and videos of each suffix were found and not read."""

    def see(self, name: str, count: int = 1) -> None:
        """Count a file that is no image here: if it is an image or a video all the same, and is not hidden."""
        suffix = suffix_of(name)
        if suffix in _REMEDIES and not os.path.basename(name).startswith("."):
            self[suffix] += count

    def __str__(self) -> str:
        """The end of a sentence: `.heic 12, .jxl 1 (pip install 'oneclip[heif]'), .mov 3 (videos)`."""
        by_remedy: dict[str, list[str]] = {}
        for suffix, count in sorted(self.items(), key=lambda item: (-item[1], item[0])):
            by_remedy.setdefault(_REMEDIES[suffix], []).append(f"{suffix} {count}")
        return ", ".join(f"{', '.join(counts)} ({remedy})" for remedy, counts in by_remedy.items())

    @property
    def sentence(self) -> str:
        """`17 files were not read: …`; "" if there are none."""
        total = self.total()
        return f"{total} file{' was' if total == 1 else 's were'} not read: {self}" if total else ""


def files_below(
    folder: str | os.PathLike[str],
    onerror: Callable[[OSError], None] | None = None,
    exclude: Sequence[str] = EXCLUDED,
) -> Iterator[str]:
    """The files in a folder and the folders in it, sorted; links to folders and hidden folders are not followed."""
    for place, folders, names in os.walk(folder, onerror=onerror):
        inside = os.path.relpath(place, folder)

        def is_wanted(name: str, inside: str = inside) -> bool:
            return not _fits(name if inside == os.curdir else os.path.join(inside, name), exclude)

        folders[:] = sorted(name for name in folders if not name.startswith(".") and is_wanted(name))
        yield from (os.path.join(place, name) for name in sorted(names) if is_wanted(name))


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Whether a pattern fits a path, or a folder that it lies in; one without a slash fits their names alone.

    Args:
        path: relative to the folder that was named.
        exclude: patterns as of a shell; `*` fits slashes, too.
    """
    parts = path.replace(os.sep, "/").split("/")
    return any(_fits("/".join(parts[: i + 1]), exclude) for i in range(len(parts)))


def _fits(path: str, exclude: Sequence[str]) -> bool:
    path = path.replace(os.sep, "/")
    name = path.rpartition("/")[2]
    patterns = (pattern.rstrip("/") for pattern in exclude)
    return any(fnmatch.fnmatch(path if "/" in pattern else name, pattern) for pattern in patterns)


def images_of(files: Iterable[str]) -> tuple[list[str], NotRead]:
    """Those of the files that are images here, and a count of the images and videos that are not read."""
    suffixes, images, not_read = image_suffixes(), [], NotRead()
    for file in files:
        if is_image(file, suffixes):
            images.append(file)
        else:
            not_read.see(file)
    return images, not_read


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


_REMEDIES = {
    **{suffix: f"pip install 'oneclip[{extra}]'" for _, extra, suffixes in _EXTRAS for suffix in suffixes},
    **{suffix: why for why, suffixes in _OTHERS for suffix in suffixes},
}
