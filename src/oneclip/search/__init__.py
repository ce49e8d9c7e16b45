"""Search collections of images by words and by images. Importing this package loads no torch."""

from oneclip.search.index import Index
from oneclip.search.results import Entry, Hit, IndexStatus, SearchResults, UpdateResult, VerifyResult

__all__ = ["Entry", "Hit", "Index", "IndexStatus", "SearchResults", "UpdateResult", "VerifyResult"]
