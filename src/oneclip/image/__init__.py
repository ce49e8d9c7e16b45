"""Decode, preprocess and augment images.

`open_image` decodes an image from a file, bytes, a stream or an array. `Preprocess` computes the tensor that a model
was trained on, `FastPreprocess` computes nearly the same tensor faster, and `Augment` adds random changes for training.
"""

from oneclip.config import AugmentCfg
from oneclip.image.augment import Augment
from oneclip.image.decode import (
    DEFAULT_MAX_PIXELS,
    ImageSource,
    Truncated,
    check_header,
    open_image,
    pixel_limit,
)
from oneclip.image.fast_preprocess import FastPreprocess
from oneclip.image.header import ImageHeader
from oneclip.image.identify import MAX_PIXELS_VARIABLE
from oneclip.image.preprocess import Preprocess

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "MAX_PIXELS_VARIABLE",
    "Augment",
    "AugmentCfg",
    "FastPreprocess",
    "ImageHeader",
    "ImageSource",
    "Preprocess",
    "Truncated",
    "check_header",
    "open_image",
    "pixel_limit",
]
