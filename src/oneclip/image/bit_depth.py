"""Correct the sample depth of files that Pillow decodes wrongly, or refuse them.

tests/image/test_bit_depth.py lists the formats and depths that were checked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image, ImageFile

from oneclip.errors import ImageError

_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_MAX_BOXES = 1000  # before the code stream of a JPEG 2000 file
_MIN_IS_WHITE, _SEPARATE_PLANES, _SIGNED = 0, 2, 2  # values of these tags


@dataclass(frozen=True)
class SampleDepth:
    """Meaning of the samples that Pillow returns.

    Attributes:
        black, white: levels of 16-bit samples.
        bits: bits of a sample in the file; Pillow fills them up to 8 with zeros on the right.
        opaque: True if the file has no alpha although Pillow returns one.
    """

    black: int = 0
    white: int = 65535
    bits: int = 8
    opaque: bool = False


def correct_sample_depth(image: ImageFile.ImageFile, stream: BinaryIO, name: str) -> SampleDepth:
    """Prepare an image that is opened but not loaded, so that its samples are decoded correctly.

    Args:
        image: an image of any format.
        stream: the stream that it was opened from.
        name: name of the image in error messages.

    Raises:
        ImageError: if Pillow would decode the samples wrongly.
    """
    if image.format == "TIFF":
        return _depth_of_tiff(image, name)
    if image.format == "JPEG2000":
        return _depth_of_jpeg2000(stream, name)
    if image.format == "TGA" and image.mode == "RGBA":
        return SampleDepth(opaque=_is_opaque_tga(stream))
    return SampleDepth()


def _depth_of_tiff(image: Any, name: str) -> SampleDepth:
    tags = image.tag_v2
    bits = tags.get(_BITS, (1,))
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()) and max(bits) <= 8:
        raise ImageError(
            f"{name} has signed samples (TIFF), whose black level is unknown; save it with unsigned samples"
        )
    if tags.get(_PLANAR) == _SEPARATE_PLANES and max(bits) == 16:
        image.tile = [_fix_16_bit_plane(tile, image, name) for tile in image.tile]
    white = 4095 if bits == (12,) else 65535
    return SampleDepth(white, 0) if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE else SampleDepth(0, white)


def _fix_16_bit_plane(tile: Any, image: Any, name: str) -> Any:
    """Fix a strip of one colour plane, in which Pillow would read every byte as a sample."""
    codec, extents, offset, args = tile
    if codec != "raw":  # libtiff decodes these correctly
        return tile
    if image.mode not in ("RGB", "RGBA") or args[0] not in tuple("RGBA"):
        raise ImageError(
            f"{name} has 16-bit samples in separate planes ({image.mode} TIFF), which Pillow cannot read; "
            "save it with interleaved samples, or compressed"
        )
    order = "L" if image.tag_v2.prefix == b"II" else "B"
    make = getattr(type(tile), "_make", tuple)  # a named tuple since Pillow 11
    return make((codec, extents, offset, (f"{args[0]};16{order}", *args[1:])))


def _depth_of_jpeg2000(stream: BinaryIO, name: str) -> SampleDepth:
    place = stream.tell()
    try:
        bits = _jpeg2000_bits(stream)
    except struct.error:  # truncated; Pillow reports that when it loads the image
        return SampleDepth()
    finally:
        stream.seek(place)
    if len(bits) > 1 and max(bits) > 8:  # Pillow rounds up and overflows: white becomes black
        raise ImageError(
            f"{name} is a colour JPEG 2000 image of {max(bits)} bits a sample, which Pillow decodes wrongly; "
            "save it with 8 bits, or as PNG"
        )
    return SampleDepth(bits=bits[0]) if bits and max(bits) < 8 and len(set(bits)) == 1 else SampleDepth()


def _jpeg2000_bits(stream: BinaryIO) -> list[int]:
    """Read the bits per sample of each component from the header of the code stream."""
    start = 0
    stream.seek(0)
    for _ in range(_MAX_BOXES):
        if stream.read(4) == b"\xff\x4f\xff\x51":
            break
        stream.seek(start)  # not yet the code stream: skip a box
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
    stream.seek(start + 40)  # after the length of the marker, and eight sizes and offsets
    (count,) = struct.unpack(">H", stream.read(2))
    return [(part & 0x7F) + 1 for part in stream.read(3 * count)[::3]]


def _is_opaque_tga(stream: BinaryIO) -> bool:
    """Report whether the sixteenth bit of a pixel is unused instead of alpha."""
    place = stream.tell()
    stream.seek(16)
    depth, about = stream.read(2)
    stream.seek(place)
    return depth == 16 and about & 15 == 0


def stretch_to_8_bits(image: Image.Image, bits: int) -> Image.Image:
    """Scale samples of fewer than 8 bits, which Pillow fills up with zeros, to the range 0 to 255."""
    white = (1 << bits) - 1
    table = [round((value >> (8 - bits)) * 255 / white) for value in range(256)]
    return image.point(table * len(image.getbands()))
