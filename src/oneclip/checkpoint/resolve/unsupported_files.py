"""Recognize files that people load as a model but that are not one: adapters, learned prompts, single towers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

LORA = ("lora_A", "lora_B", "lora_up", "lora_down")
PROMPTS = ("ctx", "token_prefix", "token_suffix")
DIFFUSION = (
    "model.diffusion_model.",
    "diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
    "down_blocks.",
)
IMAGE, TEXT = ("visual.", "vision_model.", "image_encoder."), ("text.", "text_model.", "text_encoder.")
BARE_IMAGE = ({"conv1.weight", "class_embedding"}, {"patch_embed.proj.weight", "pos_embed"})
TOKENS = "token_embedding.weight"

_ADAPTER = (
    "is a LoRA adapter, not a model: load the model that it was trained on with peft, merge both "
    "(`merge_and_unload()`), save the result, and load that here"
)
_DIFFUSER = (
    "is a diffusion model (Stable Diffusion); only its text tower belongs to a CLIP. Load that CLIP instead: ViT-L/14 "
    "for Stable Diffusion 1"
)
UNSUPPORTED_FOLDERS = {"adapter_config.json": _ADAPTER, "model_index.json": _DIFFUSER}
"""File that identifies a folder without a model, and the reason to append to the folder's name in a message."""


def unsupported_reason(state_dict: Mapping[str, Tensor]) -> str | None:
    """Explain why a file is not a model, and what to do instead.

    Returns:
        The reason, to append to the file's name in a message; None if the file may be a model.
    """
    names = set(state_dict)
    has_prompts = bool(names & set(PROMPTS)) or any(name.startswith("prompt_learner.") for name in names)
    has_image = any(name.startswith(IMAGE) for name in names)
    has_text = any(name.startswith(TEXT) or name.endswith(TOKENS) for name in names)
    if any(part in name for name in names for part in LORA):
        if any(name.endswith(TOKENS) for name in names):
            return "contains a model with separate LoRA layers: merge them with peft (`merge_and_unload()`) first"
        return _ADAPTER
    if has_prompts:
        return (
            "contains learned prompts (CoOp, MaPLe), not a model: load the model that they were trained with, by its "
            "own name"
        )
    if any(name.startswith(DIFFUSION) for name in names):
        return _DIFFUSER
    if "bert.embeddings.word_embeddings.weight" in names:
        return (
            "is a checkpoint of Chinese-CLIP's own code: load the version for transformers, for example "
            "hf-hub:OFA-Sys/chinese-clip-vit-base-patch16, or convert the file with the script of transformers "
            "(convert_chinese_clip_original_pytorch_to_hf.py)"
        )
    if not has_text and (has_image or any(some <= names for some in BARE_IMAGE)):
        return _single_tower("image", "text")
    if has_text and not has_image:
        return _single_tower("text", "image")
    return _linear_layer(state_dict)


def _single_tower(tower: str, other: str) -> str:
    return (
        f"contains only the {tower} tower of a model, and two towers are needed: give the file of the whole model, or "
        f"combine this tower with a {other} tower by open_clip.create_model(…, pretrained_{tower}_path=…)"
    )


def _linear_layer(state_dict: Mapping[str, Tensor]) -> str | None:
    """Recognize the layer of a linear probe: a weight (classes, features), and possibly a bias (classes,)."""
    weights = [tensor for tensor in state_dict.values() if tensor.ndim == 2]
    biases = [tensor for tensor in state_dict.values() if tensor.ndim == 1]
    if len(weights) != 1 or len(state_dict) != len(weights) + len(biases) or len(biases) > 1:
        return None
    classes, width = weights[0].shape
    if biases and biases[0].shape[0] != classes:
        return None
    return (
        f"is one linear layer, from {width} features to {classes} classes, for example a linear probe: load the model "
        "that computes the features, and apply this layer to the output of `encode_images`"
    )
