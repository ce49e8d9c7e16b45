"""One library for contrastive image-text models.

    import oneclip

    model = oneclip.load("pocket")
    model.classify("cat.png", ["a cat", "a dog"])  # [("a cat", 0.98), ("a dog", 0.02)]

Importing this package does not import torch: submodules are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oneclip import errors
from oneclip._version import __version__

if TYPE_CHECKING:
    from oneclip import adapters as adapters
    from oneclip import checkpoint as checkpoint
    from oneclip import config as config
    from oneclip import embed as embed
    from oneclip import engine as engine
    from oneclip import evaluate as evaluate
    from oneclip import explain as explain
    from oneclip import hub as hub
    from oneclip import image as image
    from oneclip import losses as losses
    from oneclip import model as model
    from oneclip import search as search
    from oneclip import text as text
    from oneclip import train as train
    from oneclip import zoo as zoo
    from oneclip.encoder import Encoder, load
    from oneclip.engine.accelerate import accelerate
    from oneclip.evaluate.linear_probe import LinearProbe
    from oneclip.search import Index
    from oneclip.zoo import list_models

_ATTRIBUTE_MODULES = {
    "Encoder": "encoder",
    "Index": "search",
    "LinearProbe": "evaluate",
    "accelerate": "engine",
    "list_models": "zoo",
    "load": "load_model",
}
_SUBMODULES = (
    *("adapters", "checkpoint", "config", "embed", "encoder", "encoding", "engine", "evaluate"),
    *("explain", "hub", "image", "losses", "model", "runtime", "search", "text", "train", "zoo"),
)

__all__ = ["Encoder", "Index", "LinearProbe", "__version__", "accelerate", "errors", "list_models", "load"]


def __getattr__(name: str) -> Any:
    if name in _ATTRIBUTE_MODULES:
        return getattr(import_module(f"oneclip.{_ATTRIBUTE_MODULES[name]}"), name)
    if name in _SUBMODULES:
        return import_module(f"oneclip.{name}")
    raise AttributeError(f"module 'oneclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
