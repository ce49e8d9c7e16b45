"""How files become models and back."""

from oneclip.checkpoint.blank import build_blank
from oneclip.checkpoint.load import Described, Loaded, describe, load
from oneclip.checkpoint.match import load_into
from oneclip.checkpoint.openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.read import Checkpoint, read
from oneclip.checkpoint.write import replacing, save, write_quantised

__all__ = [
    "Checkpoint",
    "Described",
    "Loaded",
    "build_blank",
    "describe",
    "infer_openai_config",
    "load",
    "load_into",
    "looks_like_openai",
    "read",
    "replacing",
    "save",
    "write_quantised",
]
