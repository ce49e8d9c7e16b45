"""`open_clip.convert`: convert checkpoints of other projects to our parameter names."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from oneclip import checkpoint
from oneclip.checkpoint import formats
from oneclip.errors import CheckpointError
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, Transformer

__all__ = ["convert_mobile_clip_state_dict", "convert_state_dict", "load_big_vision_weights"]

SCALES = {"logit_scale", "logit_bias"}  # have the same names in all formats


def convert_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of any known format to our names; tensors with our names stay unchanged.

    Args:
        model: the model that they are for.
        state_dict: tensors by their own names.
    """
    if not (model.state_dict().keys() - SCALES).isdisjoint(state_dict):
        return dict(state_dict)
    form = formats.detect_format(state_dict)
    return dict(state_dict) if form is None else form.read(formats.ForeignCheckpoint(state_dict)).state_dict


def convert_mobile_clip_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], fastvit: bool = True
) -> dict[str, Tensor]:
    """Convert a MobileCLIP checkpoint; `fastvit` is ignored, since the names tell whether the tower is a FastViT."""
    return convert_state_dict(model, state_dict)


def load_big_vision_weights(model: nn.Module, checkpoint_path: str | os.PathLike[str]) -> None:
    """Load a `.npz` file of big_vision (SigLIP) into a model with the same architecture.

    Raises:
        CheckpointError: if the file is damaged, is not such a checkpoint, or does not fit.
    """
    state_dict = checkpoint.read(checkpoint_path).state_dict
    if formats.detect_format(state_dict) is None:
        raise CheckpointError(f"{checkpoint_path} is not a checkpoint of big_vision's image-text models")
    checkpoint.load_into(model, convert_state_dict(model, state_dict), source=str(checkpoint_path))
