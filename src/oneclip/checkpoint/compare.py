"""Compare a written model with the original, by running both on the same images and texts.

Shapes: N images, M texts, L tokens, D joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oneclip.checkpoint.load import LoadedModel
from oneclip.errors import CheckpointError, ConfigError, DownloadError, MissingExtraError
from oneclip.image import Preprocess

IMAGE_SIZES = ((320, 240), (97, 131))  # (width, height) in pixels
TEXTS = ("a diagram", "a photo of two small dogs, running through the snow", "the sea at night")


@dataclass(frozen=True)
class ModelOutputs:
    """Inputs and outputs of a model for the images and texts of the comparison.

    Attributes:
        pixels: (N, 3, H, W), from its preprocessing.
        ids: (M, L), from its tokenizer.
        image: (N, D) embeddings of unit length.
        text: (M, D) embeddings of unit length.
        logits: (N, M).
        tokenized: False if its tokenizer is not available, and the ids are random.
    """

    pixels: Tensor
    ids: Tensor
    image: Tensor
    text: Tensor
    logits: Tensor
    tokenized: bool = True


def run_model(loaded: LoadedModel, ids: Tensor | None = None) -> ModelOutputs:
    """Run a model on the images and texts of the comparison.

    Args:
        loaded: the model, in float32.
        ids: (M, L) instead of the texts.
    """
    preprocess = Preprocess(loaded.preprocess_cfg)
    pixels = torch.stack([preprocess(_make_image(*size)) for size in IMAGE_SIZES])
    tokenized = ids is None
    if ids is None:
        try:
            ids = loaded.tokenizer()(list(TEXTS))
        except (ConfigError, CheckpointError, DownloadError, MissingExtraError):
            ids, tokenized = _random_ids(loaded), False
    model: Any = loaded.model
    device = next(model.parameters()).device
    with torch.inference_mode():
        image = F.normalize(model.encode_image(pixels.to(device)), dim=-1).cpu()
        text = F.normalize(model.encode_text(ids.to(device)), dim=-1).cpu()
        logits = model.logit_scale.exp().cpu() * image @ text.T
        bias = getattr(model, "logit_bias", None)
        logits = logits if bias is None else logits + bias.cpu()
    return ModelOutputs(pixels, ids, image, text, logits, tokenized)


def run_transformers(folder: Path, outputs: ModelOutputs) -> ModelOutputs:
    """Run the model in a folder with transformers, on the pixels and ids of another run.

    Raises:
        ImportError: without transformers.
        Exception: any exception of transformers, if it cannot load the folder.
    """
    import transformers

    model: Any = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    text_inputs: dict[str, Tensor] = {"input_ids": outputs.ids}
    if model.config.model_type == "chinese_clip":
        text_inputs["attention_mask"] = (outputs.ids != model.config.text_config.pad_token_id).long()
    with torch.inference_mode():
        both = model(pixel_values=outputs.pixels, **text_inputs)
    image, text = (F.normalize(embeds, dim=-1) for embeds in (both.image_embeds, both.text_embeds))
    return ModelOutputs(outputs.pixels, outputs.ids, image, text, both.logits_per_image)


def relative_differences(one: ModelOutputs, other: ModelOutputs) -> dict[str, float]:
    """Return the largest difference of each output, divided by its largest value; 0 if they are equal."""
    return {
        name: _difference(getattr(one, name), getattr(other, name)) for name in ("image", "text", "logits")
    }


def require_equal_tensors(written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> int:
    """Require that two state dicts are equal in every bit, dtype and shape, and return the number of tensors.

    Raises:
        CheckpointError: if they differ; it names one tensor that does.
    """
    differing = [
        name
        for name in written.keys() | read.keys()
        if name not in written or name not in read or not _equal_bits(written[name], read[name])
    ]
    if differing:
        raise CheckpointError(
            f"{len(differing)} tensors differ from what was written, among them {min(differing)}: do not use the "
            "result"
        )
    return len(read)


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    bits = (tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*bits)


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        raise CheckpointError(f"outputs have different shapes: {tuple(one.shape)} and {tuple(other.shape)}")
    largest = float(other.abs().max())
    return float((one - other).abs().max()) / (largest or 1.0)


def _make_image(width: int, height: int) -> Image.Image:
    """Draw gradients and edges, the same on every machine."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    red, green = (255 * rows // height).expand(height, width), (255 * columns // width).expand(height, width)
    blue = 255 * (((rows // 16) + (columns // 16)) % 2)
    return Image.fromarray(torch.stack([red, green, blue], dim=-1).to(torch.uint8).numpy())


def _random_ids(loaded: LoadedModel) -> Tensor:
    """Draw rows of ids (3, L), with an end-of-text id and padding like those of a tokenizer."""
    text, model = loaded.cfg.text_cfg, loaded.model
    vocab_size = int(getattr(model, "vocab_size", text.vocab_size))
    end = text.eos_id if text.pool_type == "eos" else vocab_size - 1
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, max(vocab_size - 2, 4), (3, text.context_length), generator=generator)
    for row, share in enumerate((0.3, 0.6, 0.9)):
        length = int(share * text.context_length)
        ids[row, length], ids[row, length + 1 :] = end, text.pad_id
    return ids
