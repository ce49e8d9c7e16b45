"""Hand an index over to engines for larger collections, and search the datasets of one of them, Lance.

export_lance(index, "photos.lance")
export_qdrant(index, "http://localhost:6333", collection="photos")
export_pgvector(index, "postgresql://localhost/photos", table="photos")
open_index("photos.lance").search("a red car")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oneclip.encoder import Encoder
    from oneclip.search.handover.lance import export_lance
    from oneclip.search.handover.lance_dataset import is_lance_location
    from oneclip.search.handover.lance_recall import measure_recall
    from oneclip.search.handover.lance_search import LanceSearch, LanceStatus
    from oneclip.search.handover.pgvector import export_pgvector
    from oneclip.search.handover.qdrant import export_qdrant
    from oneclip.search.handover.rows import ExportResult
    from oneclip.search.index import Index

_MODULES = {
    "ExportResult": "rows",
    "LanceSearch": "lance_search",
    "LanceStatus": "lance_search",
    "export_lance": "lance",
    "export_pgvector": "pgvector",
    "export_qdrant": "qdrant",
    "is_lance_location": "lance_dataset",
    "measure_recall": "lance_recall",
}


def open_index(
    location: str | Path,
    *,
    model: str | Encoder | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> Index | LanceSearch:
    """Open an index, or a Lance dataset if the location ends in .lance. Both have `search`.

    Args:
        location: folder of an index; path or address of a dataset.
        model, device, precision: as of `Index`.

    Raises:
        DataError: if it does not exist or is damaged.
    """
    from oneclip.search.handover.lance_dataset import is_lance_location

    if is_lance_location(location):
        from oneclip.search.handover.lance_search import LanceSearch

        return LanceSearch(location, model=model, device=device, precision=precision)
    from oneclip.search.index import Index

    return Index(location, model=model, device=device, precision=precision, create=False)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "ExportResult",
    "LanceSearch",
    "LanceStatus",
    "export_lance",
    "export_pgvector",
    "export_qdrant",
    "is_lance_location",
    "measure_recall",
    "open_index",
]
