"""A file to the tensors in it: what kind of file it is shows in its first bytes, never in its name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from torch import Tensor

from oneclip.checkpoint.quantize import dequantised, is_quantised
from oneclip.checkpoint.readers.npz import is_npz, read_npz
from oneclip.checkpoint.readers.pickle_reader import Record
from oneclip.checkpoint.readers.read_errors import explained
from oneclip.checkpoint.readers.safetensors_index import is_index, shard_paths
from oneclip.checkpoint.readers.safetensors_reader import read_stored
from oneclip.checkpoint.readers.select_state_dict import part_of, parts, plain, unwrapped
from oneclip.checkpoint.readers.tensor_records import TensorRef
from oneclip.checkpoint.readers.torch_legacy import Legacy
from oneclip.checkpoint.readers.torch_zip import NOT_WEIGHTS, Archive
from oneclip.checkpoint.resolve.locations import TRAINING, TRAINING_TABLE
from oneclip.errors import CheckpointError, CheckpointNotFoundError
from oneclip.hub import read_json

Format: TypeAlias = Literal["state-dict", "training", "safetensors", "quantised", "torchscript", "npz"]
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
        state_dict: tensors by their names, as stored: the prefixes of wrappers (`module.`, `_orig_mod.`, and
            `model.` or `clip.` before all names) are gone, and a quantised file is expanded to float32.
        format: what kind of file it is.
        metadata: what else it says: `model_cfg` and `preprocess_cfg` if we wrote it so, the epoch of a
            training checkpoint, `activation` of a TorchScript archive.
        part: the key of the dict that was taken from a training checkpoint.
        other_parts: the keys of what could have been taken instead, such as a running average.
        files: what was read; several for a sharded checkpoint.
        stored_dtypes: how many numbers there are of each type in the file, by the names of torch.
        left_out: what else the file holds beside the tensors of a model, in words; only where a prefix was looked for.
    """

    state_dict: dict[str, Tensor]
    format: Format
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
    """Read a checkpoint; nothing of it is executed.

    Understood are state dicts and training checkpoints of `torch.save` (new and old), safetensors files, both
    also in shards by their index (`….index.json`), OpenAI's TorchScript archives, NumPy archives (`.npz`), our
    quantised files, and the folders that our training leaves when several processes wrote to them.

    Args:
        path: of the file, of an index of shards, or of such a folder.
        part: the key of the dict to take from a training checkpoint, such as "state_dict_ema"; by default
            that of the weights, and a running average only where nothing else is there.
        values: False to read only what describes the tensors: they are then on the meta device.
        fetch: brings a shard here by its name; without it shards lie beside their index.

    Raises:
        CheckpointError: if it is missing, truncated, damaged, unsafe, or no checkpoint.
    """
    path = Path(path)
    if is_sharded(path):
        return _of_processes(path, part, values)
    if is_index(path):
        return _read_shards(path, part, values, fetch)
    start = _first_bytes(path)
    if start.startswith(b"PK"):
        found = _of_arrays(path, values) if is_npz(path) else _of_archive(path, part, values)
    elif start[8:9] == b"{" and len(start) > 9:
        found = _of_safetensors(path, values)
    else:
        for magic, what in _OTHER_FILES.items():
            if start.lstrip().startswith(magic):
                raise CheckpointError(f"{path} is no checkpoint but {what}")
        if not start.startswith(b"\x80"):
            raise CheckpointError(f"{path} is no checkpoint: it is neither a PyTorch nor a safetensors file")
        found = _of_legacy(path, part, values)
    if part is not None and found.part != part:
        raise CheckpointError(f"{path} has no {part!r}: it is no training checkpoint")
    return found


def is_sharded(path: Path) -> bool:
    """Whether several processes of a training wrote a checkpoint there: a folder."""
    return all((path / name).is_file() for name in (TRAINING, TRAINING_TABLE))


def _of_processes(path: Path, part: str | None, values: bool) -> Checkpoint:
    from oneclip.checkpoint.readers.dcp import Table

    table, facts, wanted = Table(path), read_json(path / TRAINING), part or "state_dict"
    tensors = table.read(wanted, values)
    if not tensors:
        raise CheckpointError(f"{path} has no {wanted!r}; it has {', '.join(table.parts()) or 'no weights'}")
    described = facts.pop("description", {})
    metadata = {key: value for key, value in facts.items() if plain(value)}
    metadata |= described if isinstance(described, dict) else {}
    others = tuple(other for other in table.parts() if other != wanted)
    return _checkpoint(path, tensors, "training", metadata, wanted, others, files=tuple(table.files()))


def _first_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} cannot be read: it is no file")
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


def _of_archive(path: Path, part: str | None, values: bool) -> Checkpoint:
    with Archive(path) as archive:
        content = archive.content()
        if isinstance(content, Record):
            tensors = archive.tensors(archive.parameters(content), values)
            with explained(path):
                metadata = {"activation": _activation(archive)}
            return _checkpoint(path, tensors, "torchscript", metadata)
        return _of_saved(path, content, part, lambda found: archive.tensors(found, values))


def _of_legacy(path: Path, part: str | None, values: bool) -> Checkpoint:
    file = Legacy(path)
    return _of_saved(path, file.content, part, lambda found: file.tensors(found, values))


def _of_saved(
    path: Path,
    content: Any,
    wanted: str | None,
    read_tensors: Callable[[Mapping[str, TensorRef]], dict[str, Tensor]],
) -> Checkpoint:
    """What `torch.save` was given to the tensors of a model, and what lay beside them."""
    with explained(path):
        weights, part = part_of(content, wanted)
        found = unwrapped({name: ref for name, ref in weights.items() if isinstance(ref, TensorRef)})
    rest = {str(key): value for key, value in content.items() if key != part and plain(value)}
    ours = rest.pop(METADATA_KEY, None)
    metadata = rest | (ours if isinstance(ours, dict) else {})
    others = tuple(key for key in parts(content) if key != part) if part else ()
    form: Format = "training" if part else "state-dict"
    return _checkpoint(path, read_tensors(found), form, metadata, part, others)


def _of_safetensors(path: Path, values: bool) -> Checkpoint:
    tensors, texts = read_stored(path, values)
    metadata: dict[str, Any] = dict(texts)
    with explained(path):
        ours = json.loads(metadata.pop(METADATA_KEY, "{}"))
    metadata |= ours if isinstance(ours, dict) else {}
    if not is_quantised(tensors):
        return _checkpoint(path, tensors, "safetensors", metadata)
    with explained(path):
        return _checkpoint(path, dequantised(tensors), "quantised", metadata, stored=tensors)


def _of_arrays(path: Path, values: bool) -> Checkpoint:
    return _checkpoint(path, read_npz(path, values), "npz", {})


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
            name, what = (missing[0], "in it") if missing else (twice[0], "in another shard, too")
            raise CheckpointError(
                f"{path} does not fit {index.name}: {name[:80]} is {'not ' * bool(missing)}{what}"
            )
        tensors |= found.state_dict
    assert found is not None  # an index names at least one file
    return _checkpoint(index, tensors, found.format, dict(found.metadata), found.part, files=tuple(paths))


def _checkpoint(
    path: Path,
    tensors: Mapping[str, Tensor],
    form: Format,
    metadata: dict[str, Any],
    part: str | None = None,
    others: tuple[str, ...] = (),
    *,
    files: tuple[Path, ...] = (),
    stored: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Tidy up names; numbers that are not weights move to the metadata."""
    with explained(path):
        named = unwrapped(tensors)
    state: dict[str, Tensor] = {}
    for name, tensor in named.items():
        if name not in NOT_WEIGHTS or tensor.numel() != 1:
            state[name] = tensor
        else:
            metadata.setdefault(name, "not read" if tensor.is_meta else int(tensor))
    if not state:
        raise CheckpointError(f"{path} holds no tensors where those of a model were expected")
    dtypes: dict[str, int] = {}
    for tensor in (named if stored is None else stored).values():
        kind = str(tensor.dtype).removeprefix("torch.")
        dtypes[kind] = dtypes.get(kind, 0) + tensor.numel()
    return Checkpoint(state, form, metadata, part, others, files or (path,), dtypes)


def _activation(archive: Archive) -> str | None:
    """The activation that the text of a TorchScript archive mentions: "quick_gelu", "gelu", or None."""
    texts = [text for _, text in archive.source_text()]
    gelu = any("torch.gelu(" in text for text in texts)
    sigmoid = any("torch.sigmoid(" in text for text in texts)
    return None if gelu == sigmoid else "gelu" if gelu else "quick_gelu"
