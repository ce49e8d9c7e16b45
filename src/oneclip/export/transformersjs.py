"""Write an exported model in the folder layout of transformers.js.

Read from src/models/clip of transformers.js 4: `onnx/vision_model.onnx` and `onnx/text_model.onnx`, loaded by
`CLIPVisionModelWithProjection` and `CLIPTextModelWithProjection`, and the files of the processor and the tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oneclip.encoder import Encoder
from oneclip.errors import ConfigError
from oneclip.export.folder import describe_tower
from oneclip.export.request import ExportRequest, Towers
from oneclip.export.tokenizer_json import write_json, write_tokenizer_json
from oneclip.image.transformers_preprocessor import write_preprocessor

FOLDER = "onnx"


def write_transformersjs(folder: Path, towers: Towers, *, encoder: Encoder, request: ExportRequest) -> Towers:
    """Change a folder with ONNX files to the layout of transformers.js.

    Args:
        folder: that contains the towers.
        towers: their description.
        encoder: the model in torch.
        request: how it is exported.

    Returns:
        The description of the moved towers.

    Raises:
        ConfigError: for a model whose images or texts transformers.js would prepare in another way.
    """
    if request.uint8_input:
        raise ConfigError("transformers.js normalizes images itself; export without --uint8-input")
    crops = encoder.preprocess_cfg.resize_mode == "shortest"
    preprocessor = write_preprocessor(encoder.preprocess_cfg, "CLIP" if crops else "Siglip")
    (folder / FOLDER).mkdir()
    moved: Towers = {}
    external = []
    for side, precisions in towers.items():
        moved[side] = {}
        for precision, tower in precisions.items():
            for name in tower["files"]:
                (folder / name).rename(folder / FOLDER / name)
            external += [tower["file"]] if len(tower["files"]) > 1 else []
            files = [f"{FOLDER}/{name}" for name in tower["files"]]
            moved[side][precision] = describe_tower(
                folder,
                tower["runtime"],
                f"{FOLDER}/{tower['file']}",
                tower["inputs"][0],
                tower["output"],
                files,
            )
    write_json(folder / "preprocessor_config.json", preprocessor)
    write_json(folder / "config.json", model_config(encoder, external))
    write_tokenizer_json(encoder, folder, "transformers.js")
    return moved


def model_config(encoder: Encoder, external: list[str]) -> dict[str, Any]:
    """Return the content of `config.json`.

    Args:
        encoder: the model in torch. Its towers are described as CLIP's whatever they are, because only the classes of
            CLIP return the outputs of these files.
        external: names of ONNX files whose weights are in a file beside them.
    """
    config: dict[str, Any] = {
        "model_type": "clip",
        "projection_dim": encoder.embed_dim,
        "text_config": {
            "model_type": "clip_text_model",
            "max_position_embeddings": encoder.context_length,
            "projection_dim": encoder.embed_dim,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": encoder.image_size[0],
            "projection_dim": encoder.embed_dim,
        },
    }
    if external:
        config["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(external, True)}
    return config
