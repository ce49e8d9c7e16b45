"""Load, inspect, convert and write checkpoints."""

from oneclip.checkpoint.blank import build_blank
from oneclip.checkpoint.describe import Described, Preprocessing, Said, describe, settled
from oneclip.checkpoint.end_of_text import pooled_at_end
from oneclip.checkpoint.examine import Examined, examine
from oneclip.checkpoint.export import Exportable, check_target, export, write_folder
from oneclip.checkpoint.heads import Heads
from oneclip.checkpoint.load import Loaded, check_size, load
from oneclip.checkpoint.match import load_into
from oneclip.checkpoint.openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.quantise import quantised
from oneclip.checkpoint.read import Checkpoint, read
from oneclip.checkpoint.resize import resize_positions
from oneclip.checkpoint.write import replacing, save, write_quantised

__all__ = [
    "Checkpoint",
    "Described",
    "Examined",
    "Exportable",
    "Heads",
    "Loaded",
    "Preprocessing",
    "Said",
    "build_blank",
    "check_size",
    "check_target",
    "describe",
    "examine",
    "export",
    "infer_openai_config",
    "load",
    "load_into",
    "looks_like_openai",
    "pooled_at_end",
    "quantised",
    "read",
    "replacing",
    "resize_positions",
    "save",
    "settled",
    "write_folder",
    "write_quantised",
]
