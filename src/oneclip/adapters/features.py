"""Features as other packages expect them: as the towers return them, of inputs that mix texts and images.

Shapes: N inputs, D joint embedding, H and W pixels.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor

from oneclip.encoder import Encoder, load
from oneclip.encoding.encoded import split_skipped
from oneclip.errors import ImageError, TextTypeError
from oneclip.hub.addresses import is_http, read_bytes
from oneclip.hub.file_types import is_image
from oneclip.image.decode import ImageSource
from oneclip.image.prefetch import is_single_image, prefetch_images
from oneclip.text.batching.length_buckets import bucket_by_length


class SplitInputs(NamedTuple):
    """Inputs by kind, each with its positions among all.

    Attributes:
        image_rows: positions of the images.
        images: the images, as `Encoder.encode_images` takes them.
        text_rows: positions of the texts.
        texts: the texts.
    """

    image_rows: list[int]
    images: list[ImageSource]
    text_rows: list[int]
    texts: list[str]


def split_inputs(inputs: Sequence[Any], prompt: str | None = None) -> SplitInputs:
    """Separate images from texts by the rules of sentence-transformers.

    Args:
        inputs: N inputs. A string is an image if it is the path of an existing image file, the address of one or a
            data URI; every other string is a text. `{"image": …}` and `{"text": …}` say which.
        prompt: is put before each text.

    Raises:
        TextTypeError: for an input that is neither.
    """
    split = SplitInputs([], [], [], [])
    for row, item in enumerate(inputs):
        kind, value = _kind(item, row)
        if kind == "image":
            split.image_rows.append(row)
            split.images.append(value)
        else:
            split.text_rows.append(row)
            split.texts.append((prompt or "") + value)
    return split


def _kind(item: Any, row: int) -> tuple[str, Any]:
    """Return "image" or "text", and the image or text itself."""
    if isinstance(item, Mapping) and len(item) == 1 and next(iter(item)) in ("image", "text"):
        return next(iter(item.items()))
    if isinstance(item, str):
        return ("image" if _names_image(item) else "text"), item
    if is_single_image(item):
        return "image", item
    raise TextTypeError(
        f"input {row} (counted from 0) is {type(item).__name__}; expected a text or an image: a string, a path, a "
        'PIL image, bytes, an array, {"text": …} or {"image": …}'
    )


def _names_image(text: str) -> bool:
    if text.startswith("data:image/"):
        return True
    if is_http(text) and " " not in text:
        return is_image(urlsplit(text).path)
    return is_image(text) and os.path.isfile(text)


def read_pixels(encoder: Encoder, images: Iterable[ImageSource], batch_size: int) -> Iterator[Tensor]:
    """Open and preprocess images in threads.

    Args:
        encoder: the model that they are for.
        images: paths, addresses, data URIs, bytes, PIL images and arrays, in any mixture.
        batch_size: images of a batch.

    Yields:
        (n, 3, H, W) floats on the CPU, n up to `batch_size`.

    Raises:
        ImageError, DownloadError: for an image that cannot be read; the message names it.
    """
    batches = prefetch_images(
        map(_fetched, images),
        encoder.preprocess,
        batch_size,
        max_pixels=encoder.max_pixels,
        truncated=encoder.truncated,
    )
    with closing(split_skipped(batches, "raise")) as read:
        for _, pixels in read:
            yield torch.stack(pixels)


def _fetched(image: ImageSource) -> ImageSource:
    """Return the bytes of an address or a data URI; anything else unchanged."""
    if not isinstance(image, str):
        return image
    if not image.startswith("data:"):
        return read_bytes(image) if is_http(image) else image
    try:
        return base64.b64decode(image.partition(";base64,")[2], validate=True)
    except binascii.Error as error:
        raise ImageError(f"{image[:40]}…: not a data URI with base64 ({error})") from error


def image_features(encoder: Encoder, images: Iterable[ImageSource], batch_size: int) -> Tensor:
    """Encode images: (N, D) float32 on the CPU, not normalized; arguments and errors as of `read_pixels`."""
    parts = [torch.empty(0, encoder.embed_dim)]
    parts += [
        encoder.encode_pixels(pixels).float().cpu() for pixels in read_pixels(encoder, images, batch_size)
    ]
    return torch.cat(parts)


def text_features(encoder: Encoder, texts: Sequence[str], batch_size: int) -> Tensor:
    """Encode texts: (N, D) float32 on the CPU, not normalized. Long texts are cut, as by the packages adapted to.

    Raises:
        TextTypeError: for a text that is not a string.
    """
    features = torch.empty(len(texts), encoder.embed_dim)
    if not texts:  # the tokenizer's files may be missing
        return features
    tokenizer = encoder.tokenizer
    tokenize = partial(tokenizer, context_length=encoder.context_length, overflow="truncate")
    for rows, ids in bucket_by_length(texts, tokenize, batch_size, tokenizer.pad_token_id):
        features[rows] = encoder.encode_tokens(ids).float().cpu()
    return features


def as_encoder(model: Encoder | str | os.PathLike[str], device: str | torch.device | None = None) -> Encoder:
    """Return an encoder, loaded first if its name is given, on a device if one is given."""
    if not isinstance(model, Encoder):
        return load(model, device)
    return model if device is None else model.to(device)


def as_rows(embeddings: Any) -> Tensor:
    """Convert embeddings of any type, (N, D) or one of (D,), to a float32 tensor (N, D)."""
    if isinstance(embeddings, (list, tuple)) and embeddings and isinstance(embeddings[0], Tensor):
        embeddings = torch.stack(list(embeddings))
    rows = torch.as_tensor(embeddings).float()
    return rows[None] if rows.dim() == 1 else rows
