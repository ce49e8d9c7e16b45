"""Files of an exported folder beside its towers: the description, the tokenizer and the preprocessing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from oneclip._version import __version__
from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.export.request import ExportRequest, Towers
from oneclip.export.towers import has_dynamic_length
from oneclip.hub import sha256_of
from oneclip.image.transformers_preprocessor import write_preprocessor
from oneclip.runtime.exported_model import DESCRIPTION, FORMAT
from oneclip.text.hf.tokenizer import HFTokenizer


def describe_tower(
    folder: Path, runtime: str, file: str, input_name: str, output: str, files: Sequence[str]
) -> dict[str, Any]:
    """Return the description of a tower's files, see `oneclip.runtime.Tower`.

    Args:
        folder: that contains the files.
        runtime: "onnx" or "openvino".
        file: that the runtime opens, relative to the folder.
        input_name, output: names in the file.
        files: all files of the tower.
    """
    described = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in files
    }
    return {"runtime": runtime, "file": file, "inputs": [input_name], "output": output, "files": described}


def write_description(
    encoder: Encoder, folder: Path, towers: Towers, request: ExportRequest, parity: Mapping[str, Any] | None
) -> None:
    """Write `oneclip.json`.

    Args:
        encoder: the model in torch.
        folder: of the export.
        towers: what it contains.
        request: how it was made.
        parity: summary of the comparison with the model in torch; None before it.
    """
    runtimes = {tower["runtime"] for precisions in towers.values() for tower in precisions.values()}
    packages = ("onnx", "onnxscript", *(["openvino"] if "openvino" in runtimes else []))
    content = {
        "format": FORMAT,
        "name": encoder.name,
        "target": request.to,
        "made_by": {
            "oneclip": __version__,
            "torch": torch.__version__,
            **{name: version(name) for name in packages},
        },
        "opset": request.opset,
        "model": encoder.cfg.to_dict(),
        "preprocess": encoder.preprocess_cfg.to_dict(),
        "embed_dim": encoder.embed_dim,
        "context_length": encoder.context_length,
        "image_size": list(encoder.image_size),
        "logit_scale": encoder.logit_scale,
        "logit_bias": encoder.logit_bias,
        "weights": encoder.weights_digest(),
        "dynamic_text_length": has_dynamic_length(encoder),
        "uint8_input": request.uint8_input,
        "towers": towers,
        "max_drop": request.max_drop,
        "parity": parity,
    }
    _write_json(folder / DESCRIPTION, content)


def write_tokenizer(encoder: Encoder, folder: Path) -> None:
    """Write the files of the tokenizer; CLIP's own needs none.

    Raises:
        TokenizerNotFoundError, DownloadError: if they are missing; the message names them.
        ConfigError: for a tokenizer that was replaced.
    """
    tokenizer: Any = encoder.tokenizer
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.save_pretrained(folder)


def write_preprocessor_config(encoder: Encoder, folder: Path) -> None:
    """Write `preprocessor_config.json` for transformers.js, if its processors have these steps."""
    is_siglip = encoder.preprocess_cfg.resize_mode == "squash"
    with suppress(ConfigError):
        content = write_preprocessor(encoder.preprocess_cfg, "Siglip" if is_siglip else "CLIP")
        _write_json(folder / "preprocessor_config.json", content)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
