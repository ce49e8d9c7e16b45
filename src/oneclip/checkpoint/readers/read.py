"""Read the tensors of a checkpoint. The container is recognized by its first bytes, not by its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor

from oneclip.checkpoint.quantize import dequantize_state_dict, is_quantized
from oneclip.checkpoint.readers.npz import is_npz, read_npz
from oneclip.checkpoint.readers.pickle_reader import Record
from oneclip.checkpoint.readers.read_errors import as_checkpoint_error
from oneclip.checkpoint.readers.safetensors_index import is_index, shard_paths
from oneclip.checkpoint.readers.safetensors_reader import read_safetensors
from oneclip.checkpoint.readers.select_state_dict import is_plain, list_parts, select_part, strip_prefixes
from oneclip.checkpoint.readers.tensor_records import TensorRef
from oneclip.checkpoint.readers.torch_legacy import LegacyTorchFile
from oneclip.checkpoint.readers.torch_zip import NOT_WEIGHTS, TorchArchive
from oneclip.checkpoint.resolve.locations import DCP_METADATA, TRAINING_FILE
from oneclip.errors import CheckpointError, CheckpointNotFoundError
from oneclip.hub import read_json

FileFormat: TypeAlias = Literal["state-dict", "training", "safetensors", "quantized", "torchscript", "npz"]
METADATA_KEY = "oneclip"  # of the metadata that this library writes with the tensors

_NOT_WEIGHT_FILES = {
    b"version https://git-lfs": "a pointer of git-lfs instead of the file: run `git lfs pull`",
    b"<": "a page of HTML or XML, probably sent by a server instead of the file",
    b"{": "JSON text: give the file with the weights, or the folder that contains both",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"\x93NUMPY": "a NumPy array",
}


@dataclass(frozen=True)
class Checkpoint:
    """Content of a file.

    Attributes:
        state_dict: tensors by their names, as stored. The prefixes of wrappers (`module.`, `_orig_mod.`, and
            `model.` or `clip.` before all names) are removed, and a quantized file is expanded to float32.
        format: of the file.
        metadata: other facts in the file: `model_cfg` and `preprocess_cfg` if this library wrote them, the epoch of
            a training checkpoint, `activation` of a TorchScript archive.
        part: the key of the dict that was taken from a training checkpoint.
        other_parts: the keys of dicts that could have been taken instead, such as a moving average.
        files: the files that were read; several for a sharded checkpoint.
        stored_dtypes: number of values of each dtype in the file, by the names of torch.
        left_out: summary of the tensors that do not belong to the model; only if a prefix was searched.
    """

    state_dict: dict[str, Tensor]
    format: FileFormat
    metadata: dict[str, Any] = field(default_factory=dict)
    part: str | None = None
    other_parts: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    stored_dtypes: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def read(
    path: str | os.PathLike[str],
    *,
    part: str | None = None,
    values: bool = True,
    fetch: Callable[[str], Path] | None = None,
) -> Checkpoint:
    """Read a checkpoint without executing anything in it.

    Supported are state dicts and training checkpoints of `torch.save` (new and old) and safetensors files, both also
    sharded, by their index (`….index.json`); OpenAI's TorchScript archives; NumPy archives (`.npz`); the quantized
    files of this library; and the folders of its distributed training.

    Args:
        path: of the file, of an index of shards, or of such a folder.
        part: the key of the dict to take from a training checkpoint, such as "state_dict_ema"; by default the
            weights, or a moving average if there is nothing else.
        values: False to read only the description of the tensors: they are then on the meta device.
        fetch: downloads a shard by its name; without it, shards are in the folder of their index.

    Raises:
        CheckpointError: if the file is missing, truncated, damaged, unsafe, or not a checkpoint.
    """
    path = Path(path)
    if is_distributed(path):
        return _read_distributed(path, part, values)
    if is_index(path):
        return _read_shards(path, part, values, fetch)
    start = _first_bytes(path)
    if start.startswith(b"PK"):
        found = _read_arrays(path, values) if is_npz(path) else _read_archive(path, part, values)
    elif start[8:9] == b"{" and len(start) > 9:
        found = _read_safetensors_file(path, values)
    else:
        for magic, description in _NOT_WEIGHT_FILES.items():
            if start.lstrip().startswith(magic):
                raise CheckpointError(f"{path} is not a checkpoint but {description}")
        if not start.startswith(b"\x80"):
            raise CheckpointError(
                f"{path} is not a checkpoint: it is neither a PyTorch nor a safetensors file"
            )
        found = _read_legacy(path, part, values)
    if part is not None and found.part != part:
        raise CheckpointError(f"{path} has no {part!r}: it is not a training checkpoint")
    return found


def is_distributed(path: Path) -> bool:
    """Report whether a folder is a checkpoint of a distributed training."""
    # unlike `Path.is_file`, this does not raise an error for a path that is too long
    return all(os.path.isfile(path / name) for name in (TRAINING_FILE, DCP_METADATA))


def _read_distributed(path: Path, part: str | None, values: bool) -> Checkpoint:
    from oneclip.checkpoint.readers.dcp import DistributedCheckpoint

    distributed, facts = DistributedCheckpoint(path), read_json(path / TRAINING_FILE)
    wanted = part or "state_dict"
    tensors = distributed.read_part(wanted, values)
    parts = distributed.model_parts()
    if not tensors:
        raise CheckpointError(f"{path} has no {wanted!r}; it has {', '.join(parts) or 'no weights'}")
    description = facts.pop("description", {})
    metadata = {key: value for key, value in facts.items() if is_plain(value)}
    metadata |= description if isinstance(description, dict) else {}
    others = tuple(other for other in parts if other != wanted)
    return _make_checkpoint(
        path, tensors, "training", metadata, wanted, others, files=tuple(distributed.files())
    )


def _first_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} cannot be read: it is not a file")
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be read: {why}") from error
    if not start:
        raise CheckpointError(f"{path} is empty")
    return start


def _read_archive(path: Path, part: str | None, values: bool) -> Checkpoint:
    with TorchArchive(path) as archive:
        content = archive.content()
        if isinstance(content, Record):
            tensors = archive.tensors(archive.parameters(content), values)
            with as_checkpoint_error(path):
                metadata = {"activation": _find_activation(archive)}
            return _make_checkpoint(path, tensors, "torchscript", metadata)
        return _read_torch_content(path, content, part, lambda found: archive.tensors(found, values))


def _read_legacy(path: Path, part: str | None, values: bool) -> Checkpoint:
    file = LegacyTorchFile(path)
    return _read_torch_content(path, file.content, part, lambda found: file.tensors(found, values))


def _read_torch_content(
    path: Path,
    content: Any,
    wanted: str | None,
    read_tensors: Callable[[Mapping[str, TensorRef]], dict[str, Tensor]],
) -> Checkpoint:
    """Take the tensors of a model, and the metadata next to them, from the content of a pickle."""
    with as_checkpoint_error(path):
        weights, part = select_part(content, wanted)
        found = strip_prefixes({name: ref for name, ref in weights.items() if isinstance(ref, TensorRef)})
    rest = {str(key): value for key, value in content.items() if key != part and is_plain(value)}
    ours = rest.pop(METADATA_KEY, None)
    metadata = rest | (ours if isinstance(ours, dict) else {})
    others = tuple(key for key in list_parts(content) if key != part) if part else ()
    file_format: FileFormat = "training" if part else "state-dict"
    return _make_checkpoint(path, read_tensors(found), file_format, metadata, part, others)


def _read_safetensors_file(path: Path, values: bool) -> Checkpoint:
    tensors, texts = read_safetensors(path, values)
    metadata: dict[str, Any] = dict(texts)
    with as_checkpoint_error(path):
        ours = json.loads(metadata.pop(METADATA_KEY, "{}"))
    metadata |= ours if isinstance(ours, dict) else {}
    if not is_quantized(tensors):
        return _make_checkpoint(path, tensors, "safetensors", metadata)
    with as_checkpoint_error(path):
        return _make_checkpoint(path, dequantize_state_dict(tensors), "quantized", metadata, stored=tensors)


def _read_arrays(path: Path, values: bool) -> Checkpoint:
    return _make_checkpoint(path, read_npz(path, values), "npz", {})


def _read_shards(
    index: Path, part: str | None, values: bool, fetch: Callable[[str], Path] | None
) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    found = None
    paths = shard_paths(index, fetch)
    for path, names in paths.items():
        found = read(path, part=part, values=values)
        missing = [name for name in names if name not in found.state_dict]
        twice = [name for name in found.state_dict if name in tensors]
        if missing or twice:
            name, where = (missing[0], "in it") if missing else (twice[0], "also in another shard")
            raise CheckpointError(
                f"{path} does not fit {index.name}: {name[:80]} is {'not ' * bool(missing)}{where}"
            )
        tensors |= found.state_dict
    assert found is not None  # an index names at least one file
    return _make_checkpoint(
        index, tensors, found.format, dict(found.metadata), found.part, files=tuple(paths)
    )


def _make_checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    file_format: FileFormat,
    metadata: dict[str, Any],
    part: str | None = None,
    others: tuple[str, ...] = (),
    *,
    files: tuple[Path, ...] = (),
    stored: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Create a checkpoint: remove prefixes of names, and move numbers that are not weights to the metadata."""
    with as_checkpoint_error(path):
        named = strip_prefixes(tensors)
    state: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if name not in NOT_WEIGHTS or tensor.numel() != 1:
            state[name] = tensor
        else:
            metadata.setdefault(name, "not read" if tensor.is_meta else int(tensor))
    if not state:
        raise CheckpointError(f"{path} contains no tensors; expected those of a model")
    dtypes: dict[str, int] = {}
    for tensor in (named if stored is None else stored).values():
        kind = str(tensor.dtype).removeprefix("torch.")
        dtypes[kind] = dtypes.get(kind, 0) + tensor.numel()
    return Checkpoint(state, file_format, metadata, part, others, files or (path,), dtypes)


def _find_activation(archive: TorchArchive) -> str | None:
    """Find the activation in the code of a TorchScript archive: "quick_gelu", "gelu", or None."""
    texts = [text for _, text in archive.source_text()]
    gelu = any("torch.gelu(" in text for text in texts)
    sigmoid = any("torch.sigmoid(" in text for text in texts)
    return None if gelu == sigmoid else "gelu" if gelu else "quick_gelu"
