"""A file to the tensors in it: what kind of file it is shows in its first bytes, never in its name."""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from oneclip.checkpoint.archive import NOT_WEIGHTS, Archive
from oneclip.checkpoint.pickles import Record
from oneclip.checkpoint.quantise import dequantised, is_quantised
from oneclip.checkpoint.tensors import TensorRef
from oneclip.errors import CheckpointError

Format: TypeAlias = Literal["state-dict", "training", "safetensors", "quantised", "torchscript"]
METADATA_KEY = "oneclip"  # of what we write beside the tensors

_OTHER_FILES = {
    b"version https://git-lfs": "a pointer of git-lfs instead of the file: run `git lfs pull`",
    b"<": "a page of HTML or XML, probably one that a server sent instead of the file",
    b"{": "text in JSON: give the weights beside it, or the folder that holds both",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\x93NUMPY": "a NumPy array",
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        state_dict: tensors by their names, as stored: the prefixes of wrappers (`module.`, `_orig_mod.`) are
            gone, and a quantised file is expanded to float32.
        format: what kind of file it is.
        metadata: what else it says: `model_cfg` and `preprocess_cfg` if we wrote it so, the epoch of a
            training checkpoint, `activation` of a TorchScript archive.
    """

    state_dict: dict[str, Tensor]
    format: Format
    metadata: dict[str, Any] = field(default_factory=dict)


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint; nothing of it is executed.

    Understood are state dicts and training checkpoints of `torch.save` (new and old), safetensors files,
    OpenAI's TorchScript archives, and our quantised files.

    Raises:
        CheckpointError: if it is missing, truncated, damaged, unsafe, or no checkpoint.
    """
    path = Path(path)
    start = _first_bytes(path)
    if start.startswith(b"PK"):
        return _read_archive(path)
    if start[8:9] == b"{" and len(start) > 9:
        return _read_safetensors(path)
    for magic, what in _OTHER_FILES.items():
        if start.lstrip().startswith(magic):
            raise CheckpointError(f"{path} is no checkpoint but {what}")
    if start.startswith(b"\x80"):
        return _read_legacy(path)
    raise CheckpointError(f"{path} is no checkpoint: it is neither a PyTorch nor a safetensors file")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not start:
        raise CheckpointError(f"{path} is empty")
    return start


def _read_archive(path: Path) -> Checkpoint:
    with Archive(path) as archive:
        content = archive.content()
        if isinstance(content, Record):
            tensors = archive.state_dict(content)
            return _checkpoint(path, tensors, "torchscript", {"activation": _activation(archive)})
        weights, form, metadata = _weights_and_rest(path, content)
        tensors = {name: archive.tensor(ref) for name, ref in weights.items() if isinstance(ref, TensorRef)}
        return _checkpoint(path, tensors, form, metadata)


def _read_legacy(path: Path) -> Checkpoint:
    """What `torch.save` wrote before version 1.6: pickles and storages one after the other."""
    with _explained(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged files, which end in an error anyway
        content = torch.load(path, map_location="cpu", weights_only=True)
    weights, form, metadata = _weights_and_rest(path, content)
    return _checkpoint(path, {k: v for k, v in weights.items() if isinstance(v, Tensor)}, form, metadata)


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import safe_open

    header = struct.unpack("<Q", _first_bytes(path)[:8])[0]
    if header > path.stat().st_size - 8:
        raise CheckpointError(f"{path} is truncated: its header is longer than the file. Fetch it again")
    with _explained(path), safe_open(path, framework="pt", device="cpu") as file:
        metadata: dict[str, Any] = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata |= json.loads(metadata.pop(METADATA_KEY, "{}"))
    if is_quantised(tensors):
        return _checkpoint(path, dequantised(tensors), "quantised", metadata)
    return _checkpoint(path, tensors, "safetensors", metadata)


def _weights_and_rest(path: Path, content: Any) -> tuple[Mapping[Any, Any], Format, dict[str, Any]]:
    """The tensors of what `torch.save` was given, and what lay beside them."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__} where a dict of tensors was expected")
    if isinstance(content.get("state_dict"), Mapping):
        rest = {str(key): value for key, value in content.items() if key != "state_dict" and _is_plain(value)}
        ours = rest.pop(METADATA_KEY, None)
        return content["state_dict"], "training", rest | (ours if isinstance(ours, dict) else {})
    if not any(isinstance(value, Tensor | TensorRef) for value in content.values()):
        keys = ", ".join(str(key)[:40] for key in list(content)[:8]) or "nothing"
        raise CheckpointError(
            f"{path} holds {keys}, where the tensors of a model or a state_dict were expected"
        )
    return content, "state-dict", {str(key): value for key, value in content.items() if _is_plain(value)}


def _checkpoint(
    path: Path, tensors: Mapping[Any, Tensor], form: Format, metadata: dict[str, Any]
) -> Checkpoint:
    """Tidy up names; numbers that are not weights move to the metadata."""
    state: dict[str, Tensor] = {}
    named = {str(name).replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    prefix = "module." if all(name.startswith("module.") for name in named) else ""
    for wrapped, tensor in named.items():
        name = wrapped.removeprefix(prefix)
        if name in NOT_WEIGHTS and tensor.numel() == 1:
            metadata.setdefault(name, int(tensor))
        else:
            state[name] = tensor
    if not state:
        raise CheckpointError(f"{path} holds no tensors where those of a model were expected")
    return Checkpoint(state, form, metadata)


def _activation(archive: Archive) -> str | None:
    """The activation that the text of a TorchScript archive mentions: "quick_gelu", "gelu", or None."""
    texts = [text for _, text in archive.source_text()]
    gelu = any("torch.gelu(" in text for text in texts)
    sigmoid = any("torch.sigmoid(" in text for text in texts)
    return None if gelu == sigmoid else "gelu" if gelu else "quick_gelu"


def _is_plain(value: Any, depth: int = 4) -> bool:
    """Whether a value is of the kinds that JSON has."""
    if isinstance(value, Mapping):
        return depth > 0 and all(
            isinstance(k, str | int) and _is_plain(v, depth - 1) for k, v in value.items()
        )
    if isinstance(value, list | tuple):
        return depth > 0 and all(_is_plain(item, depth - 1) for item in value)
    return isinstance(value, str | int | float | None)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn whatever a reader of another library raises into a CheckpointError that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # damaged files make these readers raise nearly anything
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        if "Weights only" in why or "Unsupported global" in why:
            why = "it asks for names that are not part of a checkpoint and might run code; nothing was loaded"
        raise CheckpointError(f"{path} cannot be used: it is truncated, damaged or unsafe ({why})") from error
