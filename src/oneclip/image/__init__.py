"""How a picture becomes a tensor.

`open_image` decodes anything that holds a picture, `Preprocess` gives a model the tensor it was trained on,
`FastPreprocess` nearly that, sooner, and `Augment` gives training a different one each time.
"""

from oneclip.image.augment import Augment, AugmentCfg
from oneclip.image.decode import (
    DEFAULT_MAX_PIXELS,
    ImageSource,
    Truncated,
    check_header,
    open_image,
    pixel_limit,
)
from oneclip.image.fast_preprocess import FastPreprocess
from oneclip.image.identify import MAX_PIXELS_VARIABLE
from oneclip.image.preprocess import Preprocess

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "MAX_PIXELS_VARIABLE",
    "Augment",
    "AugmentCfg",
    "FastPreprocess",
    "ImageSource",
    "Preprocess",
    "Truncated",
    "check_header",
    "open_image",
    "pixel_limit",
]
