"""Make heat maps of an image: read it, choose the method, compute the cells, contrast the texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from oneclip.config import as_pair
from oneclip.errors import ConfigError
from oneclip.explain.contrast import contrast, contrast_directions, encode_generic_texts
from oneclip.explain.gradient import legrad
from oneclip.explain.maps import Maps
from oneclip.explain.placement import Placement
from oneclip.explain.protocol import ExplainedEncoder, Features
from oneclip.explain.towers import DenseTower, TokenTower, dense_tower
from oneclip.explain.windows import average_windows, cut_windows
from oneclip.image import Preprocess
from oneclip.image.decode import ImageSource, open_image
from oneclip.text.labels import Templates

Method = Literal["auto", "dense", "gradient", "windows"]
METHODS: tuple[str, ...] = get_args(Method)
LEAST_CELLS = 4  # rows and columns; the input of a tower with fewer is enlarged


def explain(
    encoder: ExplainedEncoder,
    image: ImageSource,
    texts: str | Iterable[str],
    *,
    method: Method = "auto",
    template: Templates | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> Maps:
    """Compute where an image is similar to texts; see `oneclip.Encoder.explain`.

    The modules of the encoder are in evaluation mode.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    _check_size(image_size)
    names = (texts,) if isinstance(texts, str) else tuple(texts)
    features = encoder.encode_labels(names, template)
    generic = encode_generic_texts(encoder) if len(names) == 1 else features[:0]
    opened = open_image(image, max_pixels=encoder.max_pixels, truncated=encoder.truncated)
    scores = (encoder.encode_images([opened]) @ features.T)[0]
    used = method
    if method == "auto":
        used = "windows" if dense_tower(encoder.model.visual) is None else "dense"
    if used == "windows" and image_size is not None:
        raise ConfigError(
            f"image_size is {image_size}, but windows have the size of the model; leave it out, or use method='dense'"
        )
    if used == "windows":
        placement = Placement.of_preprocess(encoder.preprocess_cfg, opened.height, opened.width)
        windows, covered = cut_windows(opened, placement)
        values = contrast(encoder.encode_images(windows), features, generic, encoder.logit_scale)
        grid = average_windows(values, covered)
    else:
        tower, pixels, placement = _prepare(encoder, opened, image_size, used)
        if used == "dense":
            grid = _dense_grid(tower, pixels, features, generic, encoder.logit_scale)
        else:
            grid = _gradient_grid(tower, pixels, contrast_directions(features, generic))
    return Maps(
        texts=names,
        scores=np.asarray(scores, np.float32),
        grid=grid,
        placement=placement,
        image=opened.convert("RGB"),
        method=used,
        contrast="generic texts" if len(names) == 1 else "the other labels",
    )


def _prepare(
    encoder: ExplainedEncoder, image: Image.Image, image_size: int | tuple[int, int] | None, method: str
) -> tuple[DenseTower, Tensor, Placement]:
    """Return the tower and its input (1, 3, H, W), and where the input lies in the image."""
    visual = encoder.model.visual
    grid = None if dense_tower(visual) is None else visual.grid_size
    size = _input_size(encoder.image_size, grid) if image_size is None else as_pair(image_size)
    tower = dense_tower(visual, size)
    if tower is None:
        raise ConfigError(
            f"the image tower of {encoder.name} has no patches that can be compared with texts; use method='windows'"
        )
    if method == "gradient" and not (
        isinstance(tower, TokenTower) and all(block.has_plain_attention for block in tower.blocks)
    ):
        raise ConfigError(
            f"the image tower of {encoder.name} has no blocks of plain attention, which the gradient is computed of; "
            "use method='dense' or method='windows'"
        )
    preprocess = Preprocess(replace(encoder.preprocess_cfg, size=size))
    pixels = preprocess(image)[None].to(encoder.device, encoder.inference.dtype)
    return tower, pixels, Placement.of_preprocess(preprocess.cfg, image.height, image.width)


def _dense_grid(
    tower: DenseTower, pixels: Tensor, texts: Features, generic: Features, scale: float
) -> NDArray[np.float32]:
    with torch.no_grad():
        cells = F.normalize(tower.cells(pixels).float(), dim=-1).cpu().numpy()
    rows, columns, width = cells.shape
    return contrast(cells.reshape(-1, width), texts, generic, scale).reshape(-1, rows, columns)


def _gradient_grid(tower: DenseTower, pixels: Tensor, directions: Features) -> NDArray[np.float32]:
    assert isinstance(tower, TokenTower)
    sensitivity, (rows, columns) = legrad(tower, pixels, torch.from_numpy(directions).to(pixels.device))
    return sensitivity.reshape(-1, rows, columns).cpu().numpy()


def _check_size(size: object) -> None:
    """Raise ConfigError unless this is None, a number of pixels, or height and width."""
    pair = size if isinstance(size, (tuple, list)) and len(size) == 2 else (size, size)
    if size is not None and not all(
        isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in pair
    ):
        raise ConfigError(f"image_size is {size!r}; expected an integer of 1 or more, or (height, width)")


def _input_size(image_size: tuple[int, int], grid: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size of a tower's images, enlarged to at least `LEAST_CELLS` cells per side."""
    factor = 1 if grid is None else -(-LEAST_CELLS // min(*grid, LEAST_CELLS))
    return image_size[0] * factor, image_size[1] * factor
