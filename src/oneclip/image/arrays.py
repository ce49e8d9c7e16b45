"""Convert arrays and images of any bit depth to 8 bits.

Pillow's own conversion clips 16-bit samples at 255, which turns most of such an image white. Here they are scaled.
Samples whose white level is unknown (32-bit integers, floats outside [0, 1]) are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from oneclip.errors import ImageError
from oneclip.image.bit_depth import SampleDepth, stretch_to_8_bits

_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
_DEPTH = SampleDepth()
_OTHER_COLORS = ("LAB", "YCbCr")  # padding with (0, 0, 0) is orange or green in these modes
_ROUNDING_SLACK = 1e-4  # floats may exceed [0, 1] by this much, as resampling causes it


def image_from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    """Convert an array to a PIL image.

    Args:
        array: (H, W) or (H, W, 1 | 3 | 4), of uint8, uint16 (white is 65535), bool, or floats in [0, 1].

    Raises:
        ImageError: for other shapes and dtypes, arrays without pixels, and floats outside [0, 1].
    """
    name = "the array"
    found = f"found {array.dtype} {array.shape}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in _CHANNELS):
        hint = "; channels come last" if array.ndim == 3 and array.shape[0] in _CHANNELS else ""
        hint = "; pass the images one by one" if array.ndim == 4 else hint
        raise ImageError(f"an image array must be (H, W) or (H, W, 1 | 3 | 4); {found}{hint}")
    if array.size == 0:
        raise ImageError(f"the image has no pixels; {found}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(_samples(array, name))


def to_8_bits(image: Image.Image, name: str, kind: str, depth: SampleDepth = _DEPTH) -> Image.Image:
    """Scale samples of other depths to 8 bits, and convert LAB and YCbCr to RGB. Other images are returned unchanged.

    Args:
        image: the image that Pillow decoded.
        name: name of the image in error messages.
        kind: its file format. PNG and PPM files use 16 bits even if Pillow reports mode "I".
        depth: corrections for files that Pillow decodes with another depth.

    Raises:
        ImageError: if the white level is unknown, or the mode cannot be converted.
    """
    if image.mode in _OTHER_COLORS:
        try:
            return image.convert("RGB")
        except (ValueError, OSError) as error:
            raise ImageError(f"{name} of mode {image.mode} cannot be converted to RGB: {error}") from error
    if depth.opaque:
        return image.convert("RGB")
    if depth.bits < 8:
        return stretch_to_8_bits(image, depth.bits)
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        array = np.asarray(image).astype(np.uint16)
        if (depth.black, depth.white) != (0, 65535):
            scaled = (array.astype(np.float64) - depth.black) * (65535 / (depth.white - depth.black))
            array = np.rint(np.clip(scaled, 0, 65535)).astype(np.uint16)
        return Image.fromarray(_samples(array, name))
    if image.mode == "I":
        raise ImageError(
            f"{name} has 32-bit integer samples ({kind}), whose white level is unknown: "
            "scale them to uint16 or [0, 1] and pass the array"
        )
    if image.mode == "F":
        return Image.fromarray(_samples(np.asarray(image), name))
    return image


def _samples(array: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    """Convert samples to contiguous uint8, rounded to the nearest: black is 0, white is 255."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return np.where(array, np.uint8(255), np.uint8(0))
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        nearest: np.ndarray[Any, Any] = (array.astype(np.uint32) + 128) // 257
        return nearest.astype(np.uint8)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -_ROUNDING_SLACK and high <= 1 + _ROUNDING_SLACK):  # also refuses NaN
            raise ImageError(f"{name} has float samples in [{low:g}, {high:g}]; expected [0, 1]")
        scaled: np.ndarray[Any, Any] = np.rint(np.clip(array.astype(np.float64), 0, 1) * 255)
        return scaled.astype(np.uint8)
    raise ImageError(
        f"{name} has samples of {array.dtype}; expected uint8, uint16, bool or floats in [0, 1] "
        "(for integers in 0..255: array.astype(np.uint8))"
    )
