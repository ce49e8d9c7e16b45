"""Make heat maps of an image: read it, choose the method, compute the cells, contrast the texts."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from oneclip.config import as_pair
from oneclip.errors import ConfigError
from oneclip.explain.contrast import contrast
from oneclip.explain.dense import dense_features
from oneclip.explain.maps import Maps
from oneclip.explain.placement import Placement
from oneclip.explain.protocol import ExplainedEncoder, Features
from oneclip.explain.windows import average_windows, cut_windows
from oneclip.image import Preprocess
from oneclip.image.decode import ImageSource, open_image
from oneclip.text.generic_texts import generic_texts
from oneclip.text.labels import Templates

Method = Literal["auto", "dense", "gradient", "windows"]
METHODS = ("auto", "dense", "gradient", "windows")
LEAST_CELLS = 7  # rows and columns; the input of a tower with fewer is enlarged


def explain(
    encoder: ExplainedEncoder,
    image: ImageSource,
    texts: str | Iterable[str],
    *,
    method: Method = "auto",
    template: Templates | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Maps:
    """Compute where an image is similar to texts; see `oneclip.Encoder.explain`."""
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; expected {', '.join(map(repr, METHODS))}")
    names = (texts,) if isinstance(texts, str) else tuple(texts)
    text_features = encoder.encode_labels(names, template)
    generic = encoder.encode_texts(generic_texts()) if len(names) == 1 else None
    opened = open_image(image, max_pixels=encoder.max_pixels, truncated=encoder.truncated)
    scores = (encoder.encode_images([opened]) @ text_features.T)[0]
    used = method
    if method == "auto":
        used = "windows" if dense_features(encoder.model.visual) is None else "dense"
    if used == "windows":
        placement = Placement.of_preprocess(encoder.preprocess_cfg, opened.height, opened.width)
        windows, covered = cut_windows(opened, placement)
        grid = average_windows(contrast(encoder.encode_images(windows), text_features, generic), covered)
    else:
        cells, placement = _dense_cells(encoder, opened, image_size)
        values = contrast(cells.reshape(-1, cells.shape[-1]), text_features, generic)
        grid = values.reshape(len(names), *cells.shape[:2])
    return Maps(
        texts=names,
        scores=np.asarray(scores, np.float32),
        grid=grid,
        placement=placement,
        image=opened.convert("RGB"),
        method=used,
        contrast="the other labels" if generic is None else "generic texts",
    )


def _dense_cells(
    encoder: ExplainedEncoder, image: Image.Image, image_size: int | tuple[int, int] | None
) -> tuple[Features, Placement]:
    """Return the features (R, C, D) of unit length of an image's cells, and where they lie."""
    visual = encoder.model.visual
    compute = dense_features(visual)
    if compute is None:
        raise ConfigError(
            f"{encoder.name} has an image tower whose patches cannot be compared with texts; use method='windows'"
        )
    size = _input_size(encoder) if image_size is None else as_pair(image_size)
    preprocess = Preprocess(replace(encoder.preprocess_cfg, size=size))
    pixels = preprocess(image)[None].to(encoder.device, encoder.inference.dtype)
    with torch.inference_mode():
        cells = F.normalize(compute(_in_evaluation_mode(visual), pixels).float(), dim=-1)
    return cells.cpu().numpy(), Placement.of_preprocess(preprocess.cfg, image.height, image.width)


def _input_size(encoder: ExplainedEncoder) -> tuple[int, int]:
    """Return the size of the tower's images, enlarged to at least `LEAST_CELLS` cells per side."""
    height, width = encoder.image_size
    rows, columns = encoder.model.visual.grid_size
    factor = max(1, -(-LEAST_CELLS // min(rows, columns)))
    return height * factor, width * factor


def _in_evaluation_mode(visual: nn.Module) -> nn.Module:
    """Return the tower, or a copy of a tower that is being trained: batch norms would change their statistics."""
    if not any(module.training for module in visual.modules()):
        return visual
    return copy.deepcopy(visual).eval()
