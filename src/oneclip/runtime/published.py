"""Folders of published ONNX exports: transformers' configuration files, and towers as `onnx/vision_model.onnx`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oneclip import hub, zoo
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.hub.json_file import read_json
from oneclip.image.transformers_preprocessor import read_preprocessor
from oneclip.runtime.exported_model import ExportedModel, Side, Tower
from oneclip.text.factory import TOKENIZER_IN_MODEL_FOLDER

SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
"""Ends of the names of the towers by precision, as of transformers.js."""

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FILES: Mapping[Side, str] = {"image": "vision_model", "text": "text_model"}
INPUTS: Mapping[Side, tuple[str, ...]] = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask")}
OUTPUTS: Mapping[Side, str] = {"image": "image_embeds", "text": "text_embeds"}
TORCH_SUFFIXES = (".safetensors", ".bin", ".pt")  # of weights, which are preferred
CLIP_VOCABULARY = 49_408
CLIP_LOGIT_SCALE = 100.0
"""The greatest that training allows (Radford et al. 2021, section 2.5), where published models end; towers lack it."""


def find_published(name: object, precision: str | None = None) -> Path | None:
    """Return the folder of a published ONNX export: a local one, or one in the cache of the hub, downloaded if needed.

    Args:
        name: a path or a repository, see `oneclip.load`.
        precision: of the towers to download; None for "fp32".

    Returns:
        The folder; None if the name means something else.

    Raises:
        DownloadError: if files cannot be downloaded.
    """
    if not isinstance(name, (str, os.PathLike)):
        return None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder if _has_towers(folder) else None
    source = zoo.resolve(os.fspath(name))
    if source.repo is None:
        return None
    suffix = SUFFIXES.get(precision or "fp32", "")
    towers = [f"onnx/{file}{suffix}.onnx" for file in FILES.values()]
    files = hub.hub_files(
        source.repo,
        [CONFIG, PREPROCESSOR, *TOKENIZER_FILES, *towers],
        subfolder=source.subfolder,
        revision=source.revision,
    )
    return files[CONFIG].parent if CONFIG in files and all(tower in files for tower in towers) else None


def open_published(folder: Path, name: str) -> ExportedModel:
    """Read the files of a published ONNX export of a CLIP.

    Raises:
        CheckpointError: if a file is missing or damaged, or the model is of another kind.
    """
    config = read_json(folder / CONFIG)
    if config.get("model_type") != "clip":
        raise CheckpointError(
            f"{name} has the model_type {str(config.get('model_type'))[:80]!r}; of published ONNX exports, those of "
            "'clip' run; export others with oneclip export"
        )
    if not (folder / PREPROCESSOR).is_file():
        raise CheckpointError(
            f"{name} has no {PREPROCESSOR}, which says how images are prepared; copy it there"
        )
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    try:
        pixels, dim = int(vision.get("image_size", 224)), int(config.get("projection_dim", 512))
        length, vocabulary = (
            int(text.get("max_position_embeddings", 77)),
            int(text.get("vocab_size", CLIP_VOCABULARY)),
        )
        preprocess_cfg = read_preprocessor(read_json(folder / PREPROCESSOR), pixels) or PreprocessCfg(
            size=pixels
        )
    except (AttributeError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"the configuration of {name} cannot be used: {error}") from error
    own = vocabulary == CLIP_VOCABULARY  # OpenAI's tokenizer, whatever files are there
    tokenizer = None if own else TOKENIZER_IN_MODEL_FOLDER
    return ExportedModel(
        folder=folder,
        name=name,
        cfg=ModelCfg(
            dim,
            CLIPVisionCfg(image_size=pixels),
            CLIPTextCfg(context_length=length, vocab_size=vocabulary, hf_tokenizer_name=tokenizer),
        ),
        preprocess_cfg=preprocess_cfg,
        embed_dim=dim,
        context_length=length,
        logit_scale=CLIP_LOGIT_SCALE,
        logit_bias=None,
        weights="",
        dynamic_text_length=own,  # others may pad with the token that ends a text
        uint8_input=False,
        is_normalized=False,
        towers={side: _towers(folder, side) for side in FILES},
    )


def _has_towers(folder: Path) -> bool:
    has_weights = any(path.suffix in TORCH_SUFFIXES for path in folder.iterdir())
    return (folder / CONFIG).is_file() and not has_weights and all(_towers(folder, side) for side in FILES)


def _towers(folder: Path, side: Side) -> dict[str, Tower]:
    found: dict[str, Tower] = {}
    for precision, suffix in SUFFIXES.items():
        name = f"onnx/{FILES[side]}{suffix}.onnx"
        if (folder / name).is_file():
            files: dict[str, Any] = {name: ((folder / name).stat().st_size, "")}
            found[precision] = Tower("onnx", name, INPUTS[side], OUTPUTS[side], files)
    return found
