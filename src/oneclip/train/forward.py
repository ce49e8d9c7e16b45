"""A model to one forward pass from a batch to all that its losses want, captions in groups of like length.

Shapes: B batch, L tokens, D joint embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST = 16  # captions in a group: fewer do not fill the processor


class Features(NamedTuple):
    """What the towers make of a batch."""

    image: Tensor  # (B, D) fp32, unit length
    text: Tensor  # (B, D) fp32, unit length
    logit_scale: Tensor  # exponentiated
    logit_bias: Tensor | None
    captions: Mapping[str, Tensor] = {}  # of a model that writes them: `logits` (B, L, V), `labels` (B, L)
    negatives: Tensor | None = None  # (B, K, D) fp32, unit length, of `Batch.extra["negatives"]`


class Towers(nn.Module):
    """Both towers as one module, so that what shards or replicates it sees every forward pass.

    Args:
        model: has `encode_image`, `encode_text`, `logit_scale`, perhaps `logit_bias`; or is a CoCa.
        text_groups: captions are encoded in so many groups of like length, at most, each cut after its longest one.
        pad_id: what fills the ids after a caption.
        may_cut: whether the text tower computes the same from ids that are cut; else captions are one group.
    """

    def __init__(
        self, model: nn.Module, *, text_groups: int = 1, pad_id: int = 0, may_cut: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.text_groups = text_groups if may_cut else 1
        self.pad_id = pad_id
        self.writes_captions = hasattr(model, "text_decoder")

    def forward(self, images: Tensor, texts: Tensor, negatives: Tensor | None = None) -> Features:
        """(B, 3, H, W) pictures and (B, L) ids to features, normalised in fp32; likewise (B, K, L) further ids."""
        if self.writes_captions:
            output = self.model(images, texts)
            image, text = output["image_features"], output["text_features"]
            captions = {"logits": output["logits"].float(), "labels": output["labels"]}
        else:
            image, text, captions = self.encode_images(images), self.encode_texts(texts), {}
        wrong = None
        if negatives is not None:
            flat = F.normalize(self.encode_texts(negatives.flatten(0, 1)).float(), dim=-1)
            wrong = flat.view(*negatives.shape[:2], -1)
        scale = self.model.logit_scale.float().exp()  # type: ignore[operator]
        bias = getattr(self.model, "logit_bias", None)
        return Features(
            F.normalize(image.float(), dim=-1),
            F.normalize(text.float(), dim=-1),
            scale,
            bias.float() if bias is not None else None,
            captions,
            wrong,
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), as the visual tower gives them."""
        return first(self.model.encode_image(images))  # type: ignore[operator]

    def encode_texts(self, texts: Tensor) -> Tensor:
        """(B, L) to (B, D), as the text tower gives them; the same numbers in any number of groups."""
        groups = min(self.text_groups, len(texts) // FEWEST)
        encode: Any = self.model.encode_text
        if groups <= 1:
            return first(encode(texts))
        lengths = last_used(texts, self.pad_id)
        order = lengths.argsort()
        features = [
            first(encode(texts[rows][:, : int(lengths[rows[-1]]) + 1])) for rows in order.chunk(groups)
        ]
        return torch.cat(features)[order.argsort()]


def last_used(texts: Tensor, pad_id: int) -> Tensor:
    """(B,) the last column of each row of ids that does not pad; the first, where all do."""
    columns = torch.arange(texts.shape[1], device=texts.device)
    return ((texts != pad_id) * columns).amax(dim=1)


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Features alone, of a tower that gives its tokens, too."""
    return output if isinstance(output, Tensor) else output[0]
