"""Files whose samples Pillow reads with another depth than they have: repaired where that is possible, or refused.

tests/image/test_depths.py has the table of what was checked, of every format and depth that Pillow opens.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from oneclip.errors import ImageError

_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_MOST_BOXES = 1000  # before the code stream of a JPEG 2000 file
_MIN_IS_WHITE, _SEPARATE_PLANES, _SIGNED = 0, 2, 2  # values of them


@dataclass(frozen=True)
class Depth:
    """What the samples mean that Pillow gives.

    Attributes:
        black, white: of 16-bit samples.
        bits: of samples that Pillow gives as 8 bits by putting zeros behind them.
        opaque: whether the alpha that Pillow gives is none.
    """

    black: int = 0
    white: int = 65535
    bits: int = 8
    opaque: bool = False


def before_loading(image: ImageFile.ImageFile, stream: BinaryIO, name: str) -> Depth:
    """Make an image that was opened, and not loaded yet, load with the right samples.

    Args:
        image: of any format.
        stream: that it was opened from.
        name: of the image, for messages.

    Raises:
        ImageError: for a file whose samples Pillow would garble.
    """
    if image.format == "TIFF":
        return _of_tiff(image, name)
    if image.format == "JPEG2000":
        return _of_jpeg2000(stream, name)
    if image.format == "TGA" and image.mode == "RGBA":
        return Depth(opaque=_is_opaque_tga(stream))
    return Depth()


def _of_tiff(image: Any, name: str) -> Depth:
    tags = image.tag_v2
    bits = tags.get(_BITS, (1,))
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and max(bits) <= 8:
        raise ImageError(
            f"{name} has signed samples (TIFF), whose black is unknown; save it with unsigned ones"
        )
    if tags.get(_PLANAR) == _SEPARATE_PLANES and max(bits) == 16:
        image.tile = [_plane_of_16_bits(tile, image, name) for tile in image.tile]
    white = 4095 if bits == (12,) else 65535
    return Depth(white, 0) if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE else Depth(0, white)


def _plane_of_16_bits(tile: Any, image: Any, name: str) -> Any:
    """A strip of one colour, of which Pillow would read every byte as a sample."""
    codec, extents, offset, args = tile
    if codec != "raw":  # libtiff gives it as Pillow expects
        return tile
    if image.mode not in ("RGB", "RGBA") or args[0] not in tuple("RGBA"):
        raise ImageError(
            f"{name} has 16-bit samples in separate planes ({image.mode} TIFF), which Pillow cannot read; "
            "save it with interleaved samples, or compressed"
        )
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    make = getattr(type(tile), "_make", tuple)  # a tuple with names since Pillow 11
    return make((codec, extents, offset, (f"{args[0]};16{order}", *args[1:])))


def _of_jpeg2000(stream: BinaryIO, name: str) -> Depth:
    place = stream.tell()
    try:
        bits = _bits_of_jpeg2000(stream)
    except struct.error:  # cut off, which Pillow says when it loads
        return Depth()
    finally:
        stream.seek(place)
    if len(bits) > 1 and max(bits) > 8:  # rounding up wraps around: white becomes black
        raise ImageError(
            f"{name} is a JPEG 2000 image in colour of {max(bits)} bits a sample, which Pillow reads wrongly; "
            "save it with 8 bits, or as PNG"
        )
    return Depth(bits=bits[0]) if bits and max(bits) < 8 and len(set(bits)) == 1 else Depth()


def _bits_of_jpeg2000(stream: BinaryIO) -> list[int]:
    """Bits a sample of each component, from the header of the code stream."""
    start = 0
    stream.seek(0)
    for _ in range(_MOST_BOXES):
        if stream.read(4) == b"\xff\x4f\xff\x51":
            break
        stream.seek(start)  # not at the code stream yet: pass over a box
        length, kind = struct.unpack(">I4s", stream.read(8))
        header = 8
        if length == 1:
            (length,) = struct.unpack(">Q", stream.read(8))
            header = 16
        if length < header and kind != b"jp2c":
            return []
        start += header if kind == b"jp2c" else length
        stream.seek(start)
    else:
        return []
    stream.seek(start + 40)  # behind the marker's length and eight sizes and offsets
    (count,) = struct.unpack(">H", stream.read(2))
    return [(part & 0x7F) + 1 for part in stream.read(3 * count)[::3]]


def _is_opaque_tga(stream: BinaryIO) -> bool:
    """Whether the sixteenth bit of pixels is no alpha."""
    place = stream.tell()
    stream.seek(16)
    depth, about = stream.read(2)
    stream.seek(place)
    return depth == 16 and about & 15 == 0


def stretched(image: Image.Image, bits: int) -> Image.Image:
    """Samples of fewer bits, which stand before zeros, from black to white."""
    most = (1 << bits) - 1
    table = [round((value >> (8 - bits)) * 255 / most) for value in range(256)]
    return image.point(table * len(image.getbands()))
