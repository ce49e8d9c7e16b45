"""Groups of equal and similar images. Nothing is ever deleted."""

from oneclip.search.near_groups import looks_alike as looks_alike
