"""Load, inspect, convert and write checkpoints."""

from oneclip.checkpoint.interpolate_pos_embed import resize_positions
from oneclip.checkpoint.load import Loaded, check_size, load
from oneclip.checkpoint.load_state_dict import load_into
from oneclip.checkpoint.quantize import quantised
from oneclip.checkpoint.readers.read import Checkpoint, read
from oneclip.checkpoint.resolve.attention_heads import Heads
from oneclip.checkpoint.resolve.end_of_text import pooled_at_end
from oneclip.checkpoint.resolve.evidence import Examined, examine
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.resolve.resolve import Described, Preprocessing, Said, describe, settled
from oneclip.checkpoint.save import Exportable, check_target, export, write_folder
from oneclip.checkpoint.skip_init import build_blank
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
