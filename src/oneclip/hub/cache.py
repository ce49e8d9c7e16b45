"""Location of the cache, offline switch, and checksums of cached files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

OFFLINE_SWITCHES = ("ONECLIP_OFFLINE", "HF_HUB_OFFLINE")
OFFLINE_REASON = f"the network is switched off ({' or '.join(OFFLINE_SWITCHES)})"
PULL_HINT = "On a machine with a network, `oneclip pull NAME --out FOLDER` writes a folder that loads here by its path"


def offline() -> bool:
    """Return whether the network is switched off by ONECLIP_OFFLINE=1 or HF_HUB_OFFLINE=1."""
    return any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in OFFLINE_SWITCHES)


def cache_folder() -> Path:
    """Return the folder for files from URLs: `~/.cache/clip`, as in OpenAI's package.

    ONECLIP_CACHE sets another folder, XDG_CACHE_HOME another parent of `clip`. Files from the Hugging Face hub are
    kept in the hub's own cache, which HF_HOME sets.
    """
    if folder := os.environ.get("ONECLIP_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clip"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(2**18))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()
