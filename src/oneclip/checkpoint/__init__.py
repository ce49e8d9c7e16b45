"""Load, inspect, convert and write checkpoints."""

from oneclip.checkpoint.convert import ConvertibleModel, check_target, convert, write_folder
from oneclip.checkpoint.interpolate_pos_embed import resize_positions
from oneclip.checkpoint.load import LoadedModel, check_size, load
from oneclip.checkpoint.load_state_dict import load_into
from oneclip.checkpoint.quantize import quantize_state_dict
from oneclip.checkpoint.readers.read import Checkpoint, read
from oneclip.checkpoint.resolve.attention_heads import Heads
from oneclip.checkpoint.resolve.end_of_text import pool_at_end_of_text
from oneclip.checkpoint.resolve.evidence import CheckpointEvidence, DeclaredFacts, Preprocessing
from oneclip.checkpoint.resolve.gather import gather_evidence
from oneclip.checkpoint.resolve.infer_openai import infer_openai_config, looks_like_openai
from oneclip.checkpoint.resolve.resolve import (
    ResolvedCheckpoint,
    resolve_checkpoint,
    resolve_evidence,
)
from oneclip.checkpoint.save import save, save_quantized
from oneclip.checkpoint.skip_init import build_uninitialized

__all__ = [
    "Checkpoint",
    "CheckpointEvidence",
    "ConvertibleModel",
    "DeclaredFacts",
    "Heads",
    "LoadedModel",
    "Preprocessing",
    "ResolvedCheckpoint",
    "build_uninitialized",
    "check_size",
    "check_target",
    "convert",
    "gather_evidence",
    "infer_openai_config",
    "load",
    "load_into",
    "looks_like_openai",
    "pool_at_end_of_text",
    "quantize_state_dict",
    "read",
    "resize_positions",
    "resolve_checkpoint",
    "resolve_evidence",
    "save",
    "save_quantized",
    "write_folder",
]
