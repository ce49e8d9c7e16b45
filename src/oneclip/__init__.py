"""One library for contrastive image-text models.

    import oneclip

    clip = oneclip.load("pocket")
    clip.classify("cat.jpg", ["a cat", "a dog"])  # [("a cat", 0.98), ("a dog", 0.02)]

Importing this package loads no torch: what needs it is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oneclip import errors
from oneclip._version import __version__

if TYPE_CHECKING:
    from oneclip.encoder import Encoder, load
    from oneclip.engine import accelerate

__all__ = ["Encoder", "__version__", "accelerate", "errors", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Encoder", "load"):
        from oneclip import encoder

        return getattr(encoder, name)
    if name == "accelerate":
        from oneclip import engine

        return engine.accelerate
    raise AttributeError(f"module 'oneclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
