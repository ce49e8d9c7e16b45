"""Images in files with a known modification time."""

import os
from pathlib import Path

from tiny import picture


def write_image(path: Path, seed: int, *, time: int = 1_600_000_000) -> Path:
    """Write an image of a seed with a modification time in seconds."""
    picture(seed).save(path)
    os.utime(path, (time, time))
    return path
