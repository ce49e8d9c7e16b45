"""Say what a file is that people give for a model, and that holds none: an adapter, learned prompts, a lone tower."""

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
    "is a LoRA adapter, which changes a model and is none: load the model that it was trained on with peft, merge them "
    "(`merge_and_unload()`), save that, and load it here"
)
_DIFFUSER = (
    "is a diffusion model (Stable Diffusion), whose text tower alone is CLIP's: load the CLIP that it was made with: "
    "ViT-L/14 for Stable Diffusion 1"
)
OTHER_FOLDERS = {"adapter_config.json": _ADAPTER, "model_index.json": _DIFFUSER}
"""The file that tells a folder without a model, and what the folder is, to go on after its name."""


def what_it_is(state_dict: Mapping[str, Tensor]) -> str | None:
    """What a file that holds no model is, and what to do, to go on after its name; None if it may be a model."""
    names = set(state_dict)
    has_prompts = bool(names & set(PROMPTS)) or any(name.startswith("prompt_learner.") for name in names)
    has_image = any(name.startswith(IMAGE) for name in names)
    has_text = any(name.startswith(TEXT) or name.endswith(TOKENS) for name in names)
    if any(part in name for name in names for part in LORA):
        if any(name.endswith(TOKENS) for name in names):
            return "holds a model with LoRA layers beside its own: merge them with peft (`merge_and_unload()`) first"
        return _ADAPTER
    if has_prompts:
        return (
            "holds learned prompts (CoOp, MaPLe), which stand before the names of classes and are no model: load the "
            "model that they were trained with, by its own name"
        )
    if any(name.startswith(DIFFUSION) for name in names):
        return _DIFFUSER
    if "bert.embeddings.word_embeddings.weight" in names:
        return (
            "is a checkpoint of Chinese-CLIP's own code: load the form that transformers has of it, as "
            "hf-hub:OFA-Sys/chinese-clip-vit-base-patch16, or convert it with the program that comes with transformers "
            "(convert_chinese_clip_original_pytorch_to_hf.py)"
        )
    if not has_text and (has_image or any(some <= names for some in BARE_IMAGE)):
        return _lone("image", "text")
    if has_text and not has_image:
        return _lone("text", "image")
    return _linear(state_dict)


def _lone(tower: str, other: str) -> str:
    return (
        f"holds the {tower} tower of a model alone, and two towers are needed: give the file of the whole model, or "
        f"put this tower beside a {other} tower by open_clip.create_model(…, pretrained_{tower}_path=…)"
    )


def _linear(state_dict: Mapping[str, Tensor]) -> str | None:
    """The one layer of a linear probe: a weight (classes, features), and a bias (classes,)."""
    weights = [tensor for tensor in state_dict.values() if tensor.ndim == 2]
    biases = [tensor for tensor in state_dict.values() if tensor.ndim == 1]
    if len(weights) != 1 or len(state_dict) != len(weights) + len(biases) or len(biases) > 1:
        return None
    classes, width = weights[0].shape
    if biases and biases[0].shape[0] != classes:
        return None
    return (
        f"is one linear layer, from {width} features to {classes} classes, such as a linear probe: load the model "
        "whose features it takes, and put this layer behind `encode_images`"
    )
