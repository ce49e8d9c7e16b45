"""A model that was written to how far it is from the one it was made of: both run on the same pictures and captions.

Shapes: N pictures, M captions, L tokens, D joint embedding.
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

from oneclip.checkpoint.load import Loaded
from oneclip.errors import CheckpointError, ConfigError, DownloadError, MissingExtraError
from oneclip.image import Preprocess

PICTURES = ((320, 240), (97, 131))  # (width, height) in pixels
CAPTIONS = ("a diagram", "a photo of two small dogs, running through the snow", "the sea at night")


@dataclass(frozen=True)
class Outputs:
    """What a model makes of the same few pictures and captions.

    Attributes:
        pixels: (N, 3, H, W), as its preprocessing has them.
        ids: (M, L), as its tokenizer has them.
        image: (N, D) features of unit length.
        text: (M, D) features of unit length.
        logits: (N, M).
        tokenized: False if its tokenizer is not here, and the ids are any.
    """

    pixels: Tensor
    ids: Tensor
    image: Tensor
    text: Tensor
    logits: Tensor
    tokenized: bool = True


def run(loaded: Loaded, ids: Tensor | None = None) -> Outputs:
    """Run a model on the pictures and captions that all are compared on.

    Args:
        loaded: the model, in float32.
        ids: (M, L) instead of captions.
    """
    preprocess = Preprocess(loaded.preprocess_cfg)
    pixels = torch.stack([preprocess(_picture(*size)) for size in PICTURES])
    tokenized = ids is None
    if ids is None:
        try:
            ids = loaded.tokenizer()(list(CAPTIONS))
        except (ConfigError, CheckpointError, DownloadError, MissingExtraError):
            ids, tokenized = _any_ids(loaded), False
    model: Any = loaded.model
    device = next(model.parameters()).device
    with torch.inference_mode():
        image = F.normalize(model.encode_image(pixels.to(device)), dim=-1).cpu()
        text = F.normalize(model.encode_text(ids.to(device)), dim=-1).cpu()
        logits = model.logit_scale.exp().cpu() * image @ text.T
        bias = getattr(model, "logit_bias", None)
        logits = logits if bias is None else logits + bias.cpu()
    return Outputs(pixels, ids, image, text, logits, tokenized)


def run_transformers(folder: Path, outputs: Outputs) -> Outputs:
    """Run the model in a folder by transformers itself, on the pixels and ids that another model had.

    Raises:
        ImportError: without transformers.
        Exception: whatever transformers raises for a folder that it does not take.
    """
    import transformers

    model: Any = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    words: dict[str, Tensor] = {"input_ids": outputs.ids}
    if model.config.model_type == "chinese_clip":
        words["attention_mask"] = (outputs.ids != model.config.text_config.pad_token_id).long()
    with torch.inference_mode():
        both = model(pixel_values=outputs.pixels, **words)
    image, text = (F.normalize(features, dim=-1) for features in (both.image_embeds, both.text_embeds))
    return Outputs(outputs.pixels, outputs.ids, image, text, both.logits_per_image)


def differences(one: Outputs, other: Outputs) -> dict[str, float]:
    """The greatest difference in each kind of output, as a share of the greatest value; 0 where they are equal."""
    return {
        name: _difference(getattr(one, name), getattr(other, name)) for name in ("image", "text", "logits")
    }


def check_tensors(written: Mapping[str, Tensor], read: Mapping[str, Tensor]) -> int:
    """How many tensors there are, all equal in every bit and of the same type.

    Raises:
        CheckpointError: if they are not; it names those that differ.
    """
    differing = [
        name
        for name in written.keys() | read.keys()
        if name not in written or name not in read or not _same(written[name], read[name])
    ]
    if differing:
        raise CheckpointError(
            f"{len(differing)} tensors are not what was written, among them {min(differing)}: do not use the result"
        )
    return len(read)


def _same(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    bits = (tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in (one, other))
    return torch.equal(*bits)


def _difference(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        raise CheckpointError(f"outputs are of other shapes: {tuple(one.shape)} and {tuple(other.shape)}")
    greatest = float(other.abs().max())
    return float((one - other).abs().max()) / (greatest or 1.0)


def _picture(width: int, height: int) -> Image.Image:
    """A picture of gradients and edges, the same on every machine."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    red, green = (255 * rows // height).expand(height, width), (255 * columns // width).expand(height, width)
    blue = 255 * (((rows // 16) + (columns // 16)) % 2)
    return Image.fromarray(torch.stack([red, green, blue], dim=-1).to(torch.uint8).numpy())


def _any_ids(loaded: Loaded) -> Tensor:
    """Rows of ids with an end of text and pads where a tokenizer would have put them."""
    text, model = loaded.cfg.text_cfg, loaded.model
    vocabulary = int(getattr(model, "vocab_size", text.vocab_size))
    end = text.eos_id if text.pool_type == "eos" else vocabulary - 1
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, max(vocabulary - 2, 4), (3, text.context_length), generator=generator)
    for row, share in enumerate((0.3, 0.6, 0.9)):
        length = int(share * text.context_length)
        ids[row, length], ids[row, length + 1 :] = end, text.pad_id
    return ids
