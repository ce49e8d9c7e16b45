"""`open_clip.version`: the release of open_clip_torch whose names and arguments this package has."""

__version__ = "3.3.0"
