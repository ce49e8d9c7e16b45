"""Check that open_clip_torch reads our exports of MobileCLIP, in the original format, to the same tensors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

NAMES = ("MobileCLIP-S1", "MobileCLIP-S2", "MobileCLIP-B")


def read_back(package: Any, name: str) -> dict[str, list[str]]:
    """Return names that are missing, new or different after our export and the published import."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "src"))  # behind the published packages
    from oneclip import zoo
    from oneclip.checkpoint.formats import NativeCheckpoint
    from oneclip.checkpoint.formats.mobileclip import MobileCLIP

    cfg = package.get_model_config(name)
    del cfg["custom_text"]
    with torch.device("meta"):
        model = package.CustomTextCLIP(**cfg)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    shapes["text.token_embedding.weight"] = torch.Size((5, 512))  # of 49,408 rows, to save time
    ours = {key: torch.arange(shape.numel()).float().reshape(shape) for key, shape in shapes.items()}
    ours |= {key: torch.zeros(shapes[key]) for key in shapes if key.endswith(("head.bias", "head.fc.bias"))}
    theirs = MobileCLIP().write(NativeCheckpoint(ours, zoo.architecture(name))).state_dict
    read = package.convert.convert_state_dict(model, theirs)
    same = {key for key in ours.keys() & read.keys() if torch.equal(ours[key], read[key])}
    return {"ours": sorted(ours.keys() - same), "theirs": sorted(read.keys() - same), "names": sorted(read)}
