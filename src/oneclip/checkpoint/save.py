"""Save tensors to a file, which is replaced only by a complete one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from oneclip.checkpoint.quantize import quantize_state_dict
from oneclip.checkpoint.readers.read import METADATA_KEY
from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import OutputError
from oneclip.hub.atomic import replace_file


def save(
    path: str | os.PathLike[str], state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Save tensors; an existing file is replaced only by a complete one.

    Args:
        path: its suffix selects the format: `.safetensors`, or `.pt`, `.pth` or `.bin` for `torch.save`.
        state_dict: tensors by name.
        metadata: anything that JSON can represent. With `model_cfg` and `preprocess_cfg` as dicts, the file
            describes its own model.

    Raises:
        OutputError: if the file cannot be written; an existing file is then unchanged.
    """
    path = Path(path)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    try:
        extra = json.dumps(dict(metadata or {}), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"{path} was not written: its metadata cannot be represented in JSON ({error})"
        ) from error
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        with replace_file(path) as temporary:
            try:
                save_file(_without_shared_memory(tensors), temporary, {"format": "pt", METADATA_KEY: extra})
            except SafetensorError as error:
                raise OutputError(
                    f"{path} could not be written: {error}. Existing files are unchanged"
                ) from error
    elif path.suffix in (".pt", ".pth", ".bin"):
        content = {"state_dict": tensors, METADATA_KEY: json.loads(extra)} if metadata else tensors
        with replace_file(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)
    else:
        raise OutputError(f"{path} was not written: its name must end in .safetensors, .pt, .pth or .bin")


def save_quantized(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor],
    model_cfg: ModelCfg,
    preprocess_cfg: PreprocessCfg,
    *,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Save a quantized model that describes itself; see `quantize_state_dict`.

    Args:
        path: a `.safetensors` file.
        state_dict: of the model.
        model_cfg: configuration that the model was built from.
        preprocess_cfg: preprocessing of its images.
        card: sources, licences, metrics; anything that JSON can represent.

    Raises:
        CheckpointError: if a value does not fit into 16 bits.
        OutputError: if the file cannot be written; an existing file is then unchanged.
    """
    metadata = {"model_cfg": model_cfg.to_dict(), "preprocess_cfg": preprocess_cfg.to_dict()}
    save(path, quantize_state_dict(state_dict), metadata | ({"card": dict(card)} if card else {}))


def _without_shared_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share their memory with another: safetensors cannot represent this."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if address in seen and tensor.numel() else tensor
        seen.add(address)
    return own
