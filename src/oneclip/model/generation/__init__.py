"""How a CoCa writes captions: pictures and the beginning of a text to whole texts, token by token."""

from oneclip.model.generation.generate import generate
from oneclip.model.generation.settings import Search

__all__ = ["Search", "generate"]
