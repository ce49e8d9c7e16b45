"""Read formats that need another package: HEIC and JPEG XL (`oneclip[heif]`), camera raw files (`oneclip[raw]`).

A package is imported when the first file of its format is opened. pillow-heif and pillow-jxl-plugin register readers
with Pillow. For a raw file, the preview that the camera stored is read, as photo viewers do. The file is developed only
if the preview is too small.
"""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from oneclip.errors import BrokenExtraError, MissingExtraError
from oneclip.image.jpeg_xl import CODE_STREAM, CONTAINER

MIN_PREVIEW_EDGE = 512  # pixels of the shorter edge; the largest input of a published model
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
_RAW = (  # first bytes of raw files that are not TIFF files
    *(b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM", b"II\x1a\0\0\0HEAPCCDR"),
)
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # rotation of LibRaw to EXIF orientation
_QUARTER_TURNS = (5, 6)  # rotations of LibRaw that swap width and height
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NEW_SUBFILE_TYPE, _PHOTOMETRIC, _DNG_VERSION = 254, 262, 50706  # tags of TIFF
_COLOR_FILTER_ARRAY = 32803  # a value of _PHOTOMETRIC: one colour per pixel, as the sensor records


def register_reader(prefix: bytes) -> None:
    """Register the reader of another package with Pillow, if a file needs it.

    Args:
        prefix: the first 16 bytes of the file.

    Raises:
        MissingExtraError: if the package is not installed or cannot be imported.
    """
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIF:
        if "HEIF" not in Image.OPEN:
            _import_extra("pillow_heif", "Reading HEIC", "heif").register_heif_opener()
    elif prefix.startswith((CODE_STREAM, CONTAINER)) and "JXL" not in Image.OPEN:
        _import_extra("pillow_jxl", "Reading JPEG XL", "heif")  # registers itself


def is_raw(stream: BinaryIO, prefix: bytes) -> bool:
    """Report whether a file is a camera raw file. Many are TIFF files, of which Pillow would read a thumbnail.

    Args:
        stream: the file; its position changes.
        prefix: its first 16 bytes.
    """
    if prefix[:4] not in _TIFF:
        return prefix.startswith(_RAW) or prefix[4:12] == b"ftypcrx "
    try:
        tags = ImageFileDirectory_v2(prefix[: 8 if 42 in prefix[2:4] else 16])
        stream.seek(tags.next)
        tags.load(stream)
        kind, color = tags.get(_NEW_SUBFILE_TYPE, 0), tags.get(_PHOTOMETRIC)
    except Exception:  # damaged; Pillow reports that when it opens the file
        return False
    return _DNG_VERSION in tags or color == _COLOR_FILTER_ARRAY or (isinstance(kind, int) and kind & 1 == 1)


def read_raw_preview(stream: BinaryIO) -> tuple[bytes | Image.Image, int, tuple[int, int]]:
    """Read the preview of a camera raw file, or develop the file.

    Returns:
        The preview as a JPEG file, or the developed image (half the width and height of the sensor); the EXIF
        orientation to apply; and the width and height of the whole image in pixels, upright.

    Raises:
        MissingExtraError: if rawpy is not installed.
        OSError, ValueError, RuntimeError: if the file is damaged.
    """
    rawpy = _import_extra("rawpy", "Reading camera raw files", "raw")
    stream.seek(0)
    try:
        with rawpy.imread(io.BytesIO(stream.read())) as raw:
            orientation = _ORIENTATIONS.get(raw.sizes.flip, 1)
            size = (raw.sizes.width, raw.sizes.height)
            size = size[::-1] if raw.sizes.flip in _QUARTER_TURNS else size
            try:
                preview = raw.extract_thumb()
                if preview.format == rawpy.ThumbFormat.JPEG:
                    content = bytes(preview.data)
                    with Image.open(io.BytesIO(content)) as image:
                        if min(image.size) >= MIN_PREVIEW_EDGE:
                            return content, orientation, size
            except (rawpy.LibRawError, OSError, Image.DecompressionBombError):  # no readable preview
                pass
            developed = raw.postprocess(use_camera_wb=True, half_size=True)  # already upright
            return Image.fromarray(developed), 1, size
    except rawpy.LibRawError as error:
        raise OSError(error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)) from error


def _import_extra(module: str, feature: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise BrokenExtraError(feature, module, str(error)) from error
        raise MissingExtraError(feature, extra) from error
    except Exception as error:  # raised by a library below the package
        raise BrokenExtraError(feature, module, str(error)) from error
