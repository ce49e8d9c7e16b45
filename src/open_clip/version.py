"""`open_clip.version`: the release of open_clip_torch that this package is compatible with."""

__version__ = "3.3.0"
