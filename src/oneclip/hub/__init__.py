"""How a file gets here: a URL or a repository to a path on this machine, whole and verified."""

from oneclip.hub.cache import cache_folder, offline, sha256_of
from oneclip.hub.huggingface import HUB_WEIGHTS, find_hub_file, hub_file, hub_file_here, hub_files
from oneclip.hub.json_file import read_json
from oneclip.hub.transfer import download, file_name
from oneclip.hub.weights import fetch_weights, weights_here

__all__ = [
    "HUB_WEIGHTS",
    "cache_folder",
    "download",
    "fetch_weights",
    "file_name",
    "find_hub_file",
    "hub_file",
    "hub_file_here",
    "hub_files",
    "offline",
    "read_json",
    "sha256_of",
    "weights_here",
]
