"""Thumbnails of indexed images, found by their content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oneclip.image.thumbnail import encode_thumbnail, make_thumbnail
from oneclip.search.duplicates import read_status
from oneclip.serve.recent_cache import RecentCache

if TYPE_CHECKING:
    from oneclip.search.catalogue import Catalogue
    from oneclip.search.ranking import FileSelection

CACHE_BYTES = 64 * 2**20
MEDIA_TYPE = "image/jpeg"


class Thumbnails:
    """Thumbnails that were made last. Thread-safe."""

    def __init__(self) -> None:
        self._made: RecentCache[bytes] = RecentCache(CACHE_BYTES, len)

    def find(self, catalogue: Catalogue, selection: FileSelection, sha256: str, pixels: int) -> bytes | None:
        """Return the thumbnail of a content, a JPEG; None if no file with this content can be read.

        Args:
            catalogue: of the index.
            selection: the files that may be shown.
            sha256: of the content.
            pixels: the longer side.
        """
        content = catalogue.content_of(sha256)
        entries = [] if content is None else selection.entries([content[0]])
        if entries and (made := self._made.get((sha256, pixels))) is not None:
            return made
        for entry in entries:
            if read_status(entry) is None:  # missing, or changed since it was indexed
                continue
            image = make_thumbnail(entry.path, pixels)
            if image is None or read_status(entry) is None:
                continue
            file = encode_thumbnail(image)
            self._made.put((sha256, pixels), file)
            return file
        return None
