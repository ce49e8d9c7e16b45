"""Forward pass of both towers in training, with texts in groups of similar length.

Shapes: B batch, L tokens, D joint embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_BUCKET_SIZE = 16  # texts; smaller groups do not use the processor fully


class Features(NamedTuple):
    """Outputs of the towers for a batch."""

    image: Tensor  # (B, D) fp32, unit length
    text: Tensor  # (B, D) fp32, unit length
    logit_scale: Tensor  # exponentiated
    logit_bias: Tensor | None
    captions: Mapping[str, Tensor] = {}  # of a CoCa: `logits` (B, L, V), `labels` (B, L)
    negatives: Tensor | None = None  # (B, K, D) fp32, unit length, of `Batch.extra["negatives"]`


class TrainingForward(nn.Module):
    """Both towers as one module, so that DDP and FSDP see every forward pass.

    Args:
        model: has `encode_image`, `encode_text`, `logit_scale`, and optionally `logit_bias`; or is a CoCa.
        text_length_buckets: most groups of similar length in which texts are encoded, each cut after its longest text.
        pad_id: token id after the end of a text.
        may_cut: if the text tower computes the same from shorter ids; otherwise texts are one group.
    """

    def __init__(
        self, model: nn.Module, *, text_length_buckets: int = 1, pad_id: int = 0, may_cut: bool = True
    ) -> None:
        super().__init__()
        self.model = model
        self.text_length_buckets = text_length_buckets if may_cut else 1
        self.pad_id = pad_id
        self.has_decoder = hasattr(model, "text_decoder")

    def forward(self, images: Tensor, texts: Tensor, negatives: Tensor | None = None) -> Features:
        """Encode a batch.

        Args:
            images: (B, 3, H, W).
            texts: (B, L) token ids.
            negatives: (B, K, L) token ids of wrong texts.

        Returns:
            Features, normalized in fp32.
        """
        if self.has_decoder:
            output = self.model(images, texts)
            image, text = output["image_features"], output["text_features"]
            captions = {"logits": output["logits"].float(), "labels": output["labels"]}
        else:
            image, text, captions = self.encode_images(images), self.encode_texts(texts), {}
        negative_features = None
        if negatives is not None:
            flat = F.normalize(self.encode_texts(negatives.flatten(0, 1)).float(), dim=-1)
            negative_features = flat.view(*negatives.shape[:2], -1)
        scale = self.model.logit_scale.float().exp()  # type: ignore[operator]
        bias = getattr(self.model, "logit_bias", None)
        return Features(
            F.normalize(image.float(), dim=-1),
            F.normalize(text.float(), dim=-1),
            scale,
            bias.float() if bias is not None else None,
            captions,
            negative_features,
        )

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode (B, 3, H, W) images to (B, D) features, not normalized."""
        return pooled_features(self.model.encode_image(images))  # type: ignore[operator]

    def encode_texts(self, texts: Tensor) -> Tensor:
        """Encode (B, L) token ids to (B, D) features, not normalized; the number of groups does not change them."""
        groups = min(self.text_length_buckets, len(texts) // MIN_BUCKET_SIZE)
        encode: Any = self.model.encode_text
        if groups <= 1:
            return pooled_features(encode(texts))
        lengths = last_token_index(texts, self.pad_id)
        order = lengths.argsort()
        features = [
            pooled_features(encode(texts[rows][:, : int(lengths[rows[-1]]) + 1]))
            for rows in order.chunk(groups)
        ]
        return torch.cat(features)[order.argsort()]


def last_token_index(texts: Tensor, pad_id: int) -> Tensor:
    """Return (B,) the last column without padding of each row of token ids; 0 if a row is all padding."""
    columns = torch.arange(texts.shape[1], device=texts.device)
    return ((texts != pad_id) * columns).amax(dim=1)


def pooled_features(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the features of a tower that may also return tokens."""
    return output if isinstance(output, Tensor) else output[0]
