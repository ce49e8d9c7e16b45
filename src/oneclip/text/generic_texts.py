"""Generic texts: what a text is compared with when there are no other labels.

Search computes relevance against them, heat maps their contrast.
"""

from functools import cache
from pathlib import Path


@cache
def generic_texts() -> tuple[str, ...]:
    """Return the generic texts of this version: things, places, people, symbols and kinds of image."""
    return tuple(Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines())
