"""A picture to nearly the tensor that a model was trained on, sooner: `decode="fast"`.

Three savings, none of which the published pipelines have. A large JPEG is shrunk by 2, 4 or 8 while it is
decoded, to no less than `MARGIN` times the size that is needed; only what the crop keeps is resized; and other large
pictures are first averaged over whole pixels (Pillow's `reducing_gap`). docs/cli.md has the drift that this costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from oneclip.config import PreprocessCfg
from oneclip.errors import ImageError
from oneclip.image.preprocess import Step, geometry, run, to_model_input
from oneclip.image.steps import CenterCrop, Flatten, Resize, Size, pair, require_image, resampling

# of pixels that the resize sees to those that it makes; with 2 the worst drift is 30 times as large
MARGIN = 3.0

_PICKED = ("1", "P")  # modes that Pillow resizes by picking pixels, since it cannot mix them


class FastPreprocess:
    """What `Preprocess` does, with less work for pictures much larger than the model's.

    Args:
        cfg: as of `Preprocess`.

    Attributes:
        cfg: the configuration it was made from.
        transforms: the steps in their order, as of `Preprocess`.
    """

    def __init__(self, cfg: PreprocessCfg) -> None:
        self.cfg = cfg
        resize, crop = geometry(cfg)
        over = [Flatten(cfg.background)] if cfg.background is not None else []
        self._resize = resize
        self.transforms: list[Step] = [*over, _ResizeTheCrop(resize, crop), *to_model_input(cfg)]

    def least(self, size: Size) -> Size:
        """The (height, width) to which a picture may be shrunk before it comes here."""
        height, width = self._resize.output_size(*size)
        return math.ceil(height * MARGIN), math.ceil(width * MARGIN)

    def __call__(self, image: Image.Image) -> Tensor:
        """Preprocess one picture of any mode and size: a tensor (3, H, W) of float32.

        Raises:
            ImageError: if it is no PIL image, is truncated or empty, or has a mode without conversion to RGB.
        """
        tensor: Tensor = run(self.transforms, image)
        return tensor

    def __repr__(self) -> str:
        return f"FastPreprocess({self.cfg})"


@dataclass(frozen=True)
class _ResizeTheCrop:
    """A resize and the centre crop after it in one: the rest of the picture is never resized."""

    resize: Resize
    crop: CenterCrop | None

    def __call__(self, image: Any) -> Image.Image:
        image = require_image(image)
        if image.mode in _PICKED:  # a box that is off by a rounding error would pick other pixels
            whole = self.resize(image)
            return whole if self.crop is None else self.crop(whole)
        height, width = self.resize.output_size(image.height, image.width)
        if self.crop is None:
            return self._resized(image, (height, width), (0, 0, image.width, image.height))
        crop_height, crop_width = pair(self.crop.size)
        kept_height, kept_width = min(height, crop_height), min(width, crop_width)
        top, left = CenterCrop((kept_height, kept_width)).corner(height, width)
        down, across = image.height / height, image.width / width
        box = (left * across, top * down, (left + kept_width) * across, (top + kept_height) * down)
        box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))  # of rounding
        return self.crop(self._resized(image, (kept_height, kept_width), box))

    def _resized(self, image: Image.Image, size: Size, box: tuple[float, float, float, float]) -> Image.Image:
        height, width = size
        if image.size == (width, height) and box == (0, 0, width, height):
            return image
        try:
            return image.resize((width, height), resampling(self.resize.interpolation), box, MARGIN)
        except (ValueError, OSError) as error:
            raise ImageError(
                f"a picture of mode {image.mode} cannot be resized ({error}); "
                'convert it first: image.convert("RGB")'
            ) from error
