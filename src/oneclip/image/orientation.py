"""EXIF orientation: read it from an image and undo it."""

from __future__ import annotations

from PIL import ExifTags, Image, ImageFile

from oneclip.image.identify import DECODE_ERRORS

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # EXIF orientation to the transposition that undoes it

_SWAPS_SIDES = (5, 6, 7, 8)  # orientations for which the stored height is the width of the upright image

# Metadata that can repeat an orientation which was applied already.
_ORIENTED_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none, or if the metadata is damaged.

    The reader of JPEG XL applies the format's own orientation, which replaces that of EXIF.
    """
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DECODE_ERRORS:
        return 1
    return orientation if isinstance(orientation, int) else 1


def swaps_sides(image: Image.Image) -> bool:
    """Report whether the upright image has the stored width as its height."""
    return read_orientation(image) in _SWAPS_SIDES


def rotate_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Undo an EXIF orientation. Returns the image itself if there is nothing to undo."""
    transposition = _UPRIGHT.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def detach_upright(image: ImageFile.ImageFile) -> Image.Image:
    """Apply the EXIF orientation and return an image that no longer needs its file."""
    upright = rotate_upright(image, read_orientation(image))
    if upright is not image:
        for key in _ORIENTED_METADATA:
            upright.info.pop(key, None)
        return upright
    if image.format in ("JPEG", "PNG") and getattr(image, "n_frames", 1) == 1:
        return image  # Pillow has closed the file
    return image.copy()
