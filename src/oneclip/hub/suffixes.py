"""How files are called that hold pictures, or many of them."""

# Names that pictures in a folder have. A file that is named itself may have any.
PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"),
    )
)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
