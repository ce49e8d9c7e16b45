"""Find out how this distribution was installed, and build the pip command that adds an extra to it."""

from __future__ import annotations

import json
import os
import shlex
from functools import cache
from typing import Any, NamedTuple


class InstallSource(NamedTuple):
    """Where pip installs this distribution from.

    Attributes:
        location: path of a checkout or of a wheel, an address, or the name "oneclip" for a package index.
        is_editable: True for an editable installation of a checkout.
    """

    location: str
    is_editable: bool


def install_source() -> InstallSource:
    """Return the source that pip recorded for this distribution (PEP 610)."""
    from importlib import metadata  # heavy imports, needed only for messages
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        origin: dict[str, Any] = json.loads(
            metadata.distribution("oneclip").read_text("direct_url.json") or "{}"
        )
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", "oneclip"))
    if "vcs_info" in origin:
        url = f"{origin['vcs_info']['vcs']}+{url}@{origin['vcs_info']['commit_id']}"
    location = url2pathname(urlsplit(url).path) if url.startswith("file:") else url
    return InstallSource(location, bool(origin.get("dir_info", {}).get("editable")))


@cache
def install_command(extras: str) -> str:
    """Return the command that installs extras, such as `pip install 'oneclip[timm]'`.

    The name alone finds nothing if the package is on no index, so that a checkout or a wheel is named by its path.

    Args:
        extras: names of extras, with commas between them.
    """
    location, is_editable = install_source()
    if "://" in location:
        requirement = f"oneclip[{extras}] @ {location}"
    elif os.path.exists(location) and os.path.isabs(location):
        requirement = f"{location}[{extras}]"
    else:  # an index, or a checkout or wheel that was moved or deleted
        requirement, is_editable = f"oneclip[{extras}]", False
    return f"pip install {'-e ' if is_editable else ''}{shlex.quote(requirement)}"
