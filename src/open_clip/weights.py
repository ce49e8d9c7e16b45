"""Load weights into models and single towers, from any known format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from oneclip import checkpoint
from oneclip.config import ModelCfg
from oneclip.errors import CheckpointMismatchError
from open_clip.convert import SCALES, convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

__all__ = ["load_checkpoint", "load_state_dict"]

POSITION_IDS = (
    "text.transformer.embeddings.position_ids"  # stored by older versions of transformers' text models
)
Path = str | os.PathLike[str]


def load_state_dict(
    checkpoint_path: Path, device: str | torch.device = "cpu", weights_only: bool = True
) -> dict[str, Tensor]:
    """Read the tensors of a weights file in any known format.

    Args:
        checkpoint_path: a state dict, a training checkpoint, an OpenAI archive, safetensors or a `.npz`.
        device: device of the tensors.
        weights_only: accepted for compatibility; code in a file is never executed.

    Raises:
        CheckpointError: if the file is damaged, or not a checkpoint.
    """
    state_dict = checkpoint.read(checkpoint_path).state_dict
    return {name: tensor.to(device) for name, tensor in state_dict.items()}


def load_checkpoint(
    model: nn.Module,
    checkpoint_path: Path,
    strict: bool = True,
    weights_only: bool = True,
    device: str | torch.device = "cpu",
) -> _IncompatibleKeys:
    """Load a weights file in any known format into a model; position embeddings are resized.

    Args:
        model: its dtypes and devices stay.
        checkpoint_path: as for `load_state_dict`.
        strict: require that all names match. If False, load only those that match.
        weights_only: accepted for compatibility; code in a file is never executed.
        device: device of the tensors while they are converted.

    Returns:
        The missing and the unexpected names; both empty if `strict`.

    Raises:
        CheckpointError: if the file is damaged or does not fit. The model is then unchanged.
    """
    state_dict = load_state_dict(checkpoint_path, device)
    return load_tensors(model, state_dict, str(checkpoint_path), strict)


def load_tensors(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    source: str,
    strict: bool = True,
    cfg: ModelCfg | None = None,
) -> _IncompatibleKeys:
    """Load tensors as `load_checkpoint` does. `source` names them in messages; `cfg` is the model's configuration."""
    fitted = fit_state_dict(model, state_dict, cfg)
    if strict:
        checkpoint.load_into(model, fitted, source=source)
        return _IncompatibleKeys([], [])
    return model.load_state_dict(fitted, strict=False)  # type: ignore[no-any-return]


def fit_state_dict(
    model: Any, state_dict: Mapping[str, Tensor], cfg: ModelCfg | None = None
) -> dict[str, Tensor]:
    """Convert tensors for a model: rename from other formats, move into `text.`, and resize positions."""
    fitted = dict(convert_state_dict(model, dict(state_dict)))
    if "positional_embedding" in fitted and not hasattr(model, "positional_embedding"):
        fitted = convert_to_custom_text_state_dict(fitted)
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in fitted and name in own and fitted[name].numel() == own[name].numel():
            fitted[name] = fitted[name].reshape(own[name].shape)
    if (
        "logit_bias" in own and "logit_scale" in fitted
    ):  # sigmoid training starts from weights of a softmax loss
        fitted.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    if POSITION_IDS not in own:
        fitted.pop(POSITION_IDS, None)
    if cfg is not None:
        resized = checkpoint.resize_positions(
            fitted, cfg
        )  # only where shapes differ: some trunks take any size
        return {n: t if n in own and t.shape == own[n].shape else resized[n] for n, t in fitted.items()}
    resize_pos_embed(fitted, model)
    resize_text_pos_embed(fitted, model)
    return fitted


def load_tower(model: nn.Module, tower: str, path: Path) -> None:
    """Load one tower from its own weights or those of a whole model; warn about tensors that do not fit.

    Args:
        model: the whole model. The text tower of a `CLIP` is everything except the visual tower and the scales.
        tower: "visual" or "text".
        path: as for `load_state_dict`.

    Raises:
        CheckpointMismatchError: if nothing in the file fits.
        CheckpointError: if the file is damaged, or not a checkpoint.
    """
    own, given = _tower_tensors(model.state_dict(), tower), _tower_tensors(load_state_dict(path), tower)
    fitting = {name: own[name].shape == given[name].shape for name in own if name in given}
    missing = [name for name in own if not fitting.get(name)]
    if len(missing) == len(own):
        raise CheckpointMismatchError(str(path), missing, [name for name in given if name not in own])
    with torch.no_grad():
        for name, fits in fitting.items():
            if fits:
                own[name].copy_(given[name])
    if missing:
        some = ", ".join(missing[:8]) + (", …" if len(missing) > 8 else "")
        warnings.warn(
            f"{path} does not contain {len(missing)} tensors of the tower, which are unchanged: {some}",
            stacklevel=3,
        )


def _tower_tensors(state_dict: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    """Select the tensors of a tower, by its own names, from those of a whole model or of the tower alone."""
    prefix = f"{tower}."
    within = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
    others = {
        name: t for name, t in state_dict.items() if not name.startswith("visual.") and name not in SCALES
    }
    return within or others
