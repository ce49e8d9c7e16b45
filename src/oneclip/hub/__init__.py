"""Download, cache and verify files from URLs and from the Hugging Face hub; read remote files and tables."""

from oneclip.hub.cache import cache_folder, offline, sha256_of
from oneclip.hub.huggingface import HUB_WEIGHTS, cached_hub_file, find_hub_file, hub_file, hub_files
from oneclip.hub.json_file import read_json
from oneclip.hub.transfer import download, file_name
from oneclip.hub.weights import cached_weights, fetch_weights

__all__ = [
    "HUB_WEIGHTS",
    "cache_folder",
    "cached_hub_file",
    "cached_weights",
    "download",
    "fetch_weights",
    "file_name",
    "find_hub_file",
    "hub_file",
    "hub_files",
    "offline",
    "read_json",
    "sha256_of",
]
