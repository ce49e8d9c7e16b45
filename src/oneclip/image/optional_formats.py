"""Formats that take another package: HEIC and JPEG XL (`oneclip[heif]`), raw files of cameras (`oneclip[raw]`).

A package is imported when the first file of its kind comes. pillow-heif and pillow-jxl-plugin register readers with
Pillow. Of a raw file the preview is read that the camera put into it, as photo viewers do; it is developed only where
the preview is too small.
"""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from oneclip.errors import BrokenExtraError, MissingExtraError
from oneclip.image.jpeg_xl import CODE_STREAM, CONTAINER

LEAST_PREVIEW = 512  # pixels of its shorter edge: as many as the largest published models see
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
_RAW = (  # how raw files begin that are not TIFF files
    *(b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR"),
)
_FLIPS = {3: 3, 5: 8, 6: 6}  # LibRaw's turns to EXIF orientations
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _DNG_VERSION = 254, 262, 50706  # tags of TIFF
_COLOR_FILTER_ARRAY = 32803  # a value of the second: one colour a pixel, as a sensor sees


def register_for(prefix: bytes) -> None:
    """Let Pillow read a file, if it takes a package to read what begins so.

    Args:
        prefix: the first 16 bytes of the file.

    Raises:
        MissingExtraError: if the package is not installed, or cannot be imported.
    """
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF:
        if "HEIF" not in Image.OPEN:
            _imported("pillow_heif", "Reading HEIC", "heif").register_heif_opener()
    elif prefix.startswith((CODE_STREAM, CONTAINER)) and "JXL" not in Image.OPEN:
        _imported("pillow_jxl", "Reading JPEG XL", "heif")  # which registers itself


def is_raw(stream: BinaryIO, prefix: bytes) -> bool:
    """Whether a file is a camera's raw file. Of many, which are TIFF files too, Pillow would read a thumbnail.

    Args:
        stream: of the file; its position changes.
        prefix: its first 16 bytes.
    """
    if prefix[:4] not in _TIFF:
        return prefix.startswith(_RAW) or prefix[4:12] == b"ftypcrx "
    try:
        tags = ImageFileDirectory_v2(prefix[: 8 if 42 in prefix[2:4] else 16])
        stream.seek(tags.next)
        tags.load(stream)
        kind, color = tags.get(_NEW_SUBFILE_TYPE, 0), tags.get(_PHOTOMETRIC)
    except Exception:  # damaged, which Pillow says when it opens the file
        return False
    return _DNG_VERSION in tags or color == _COLOR_FILTER_ARRAY or (isinstance(kind, int) and kind & 1 == 1)


def raw_preview(stream: BinaryIO) -> tuple[bytes | Image.Image, int]:
    """Read what a camera's raw file shows.

    Returns:
        the JPEG file that is its preview, or the developed image (half as wide and high as the sensor); and the
        EXIF orientation that it should have.

    Raises:
        MissingExtraError: without rawpy.
        OSError, ValueError, RuntimeError: for a damaged file.
    """
    rawpy = _imported("rawpy", "Reading raw files of cameras", "raw")
    stream.seek(0)
    try:
        with rawpy.imread(io.BytesIO(stream.read())) as raw:
            turn = _FLIPS.get(raw.sizes.flip, 1)
            try:
                preview = raw.extract_thumb()
                if preview.format == rawpy.ThumbFormat.JPEG:
                    content = bytes(preview.data)
                    with Image.open(io.BytesIO(content)) as image:
                        if min(image.size) >= LEAST_PREVIEW:
                            return content, turn
            except (rawpy.LibRawError, OSError, Image.DecompressionBombError):  # it has none to be read
                pass
            developed = raw.postprocess(use_camera_wb=True, half_size=True)  # which stands upright
            return Image.fromarray(developed), 1
    except rawpy.LibRawError as error:
        raise OSError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from error


def _imported(module: str, feature: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise BrokenExtraError(feature, module, str(error)) from error
        raise MissingExtraError(feature, extra) from error
    except Exception as error:  # of whatever the package is built on
        raise BrokenExtraError(feature, module, str(error)) from error
