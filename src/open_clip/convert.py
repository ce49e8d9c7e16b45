"""`open_clip.convert`: other people's checkpoints to the names that models have here."""

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

SCALES = {"logit_scale", "logit_bias"}  # named alike everywhere


def convert_state_dict(model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of any format that is known, by the names of ours; tensors that have them already as they are.

    Args:
        model: what they are for.
        state_dict: by their own names.
    """
    if not (model.state_dict().keys() - SCALES).isdisjoint(state_dict):
        return dict(state_dict)
    form = formats.recognise(state_dict)
    return dict(state_dict) if form is None else form.read(state_dict).state_dict


def convert_mobile_clip_state_dict(
    model: nn.Module, state_dict: Mapping[str, Tensor], fastvit: bool = True
) -> dict[str, Tensor]:
    """`convert_state_dict` of a MobileCLIP checkpoint, whose names say whether its visual tower is a FastViT."""
    return convert_state_dict(model, state_dict)


def load_big_vision_weights(model: nn.Module, checkpoint_path: str | os.PathLike[str]) -> None:
    """Load a `.npz` of big_vision (SigLIP) into a model of its architecture.

    Raises:
        CheckpointError: if the file is damaged, is no such checkpoint, or does not fit.
    """
    state_dict = checkpoint.read(checkpoint_path).state_dict
    if formats.recognise(state_dict) is None:
        raise CheckpointError(f"{checkpoint_path} is no checkpoint of big_vision's image-text models")
    checkpoint.load_into(model, convert_state_dict(model, state_dict), source=str(checkpoint_path))
