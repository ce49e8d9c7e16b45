"""Index of the members of a tar file, stored as NAME.tar.index next to it or in the cache.

The members of one sample have the same name up to the first dot of the file name, and differ in the rest, their kind:
`a/000123.jpg` and `a/000123.txt`. If several members have the same full name, the last one counts, as when tar
unpacks them. A link counts as its target in the tar; a link without a target is ignored.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oneclip.checkpoint.readers.npz import read_npz
from oneclip.errors import CheckpointError, DataError
from oneclip.hub.addresses import is_address, open_binary
from oneclip.hub.atomic import file_lock, replace_file
from oneclip.hub.cache import cache_folder
from oneclip.hub.ranges import file_version
from oneclip.hub.tars import TAR_ERRORS, TarLinks, detect_compression, iter_members, open_tar, unpack_path

FORMAT = 2
SUFFIX = ".index"


@dataclass(frozen=True)
class TarIndex:
    """The m members of a tar, sorted by sample; samples are in the order of their first members.

    Attributes:
        keys: names of the samples, joined by zero bytes.
        kinds: kinds that occur, such as "jpg".
        samples: (m,) int32 sample of each member.
        kind: (m,) uint16 index into `kinds`.
        starts, sizes: (m,) int64 position and length in the tar, in bytes.
        damage: why the tar could not be read to its end; "" if it could.
        digest: text that changes with the names, positions and sizes of the members.
    """

    keys: bytes
    kinds: tuple[str, ...]
    samples: NDArray[np.int32]
    kind: NDArray[np.uint16]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    damage: str
    digest: str


def tar_index(place: str) -> TarIndex:
    """Return the stored index of a tar if the tar has the same size and time (or ETag), or build a new one.

    Raises:
        DataError: if the file is missing or is not a tar file.
        DownloadError: if an address cannot be read.
    """
    size, change = file_version(place)
    about = {"format": FORMAT, "size": size, "change": change}
    for path in _index_paths(place):
        found = _read_index(path, about)
        if found is not None:
            return found
    with _index_lock(place):
        for path in _index_paths(place):  # another process may have built it meanwhile
            found = _read_index(path, about)
            if found is not None:
                return found
        index = _build_index(place, size)
        for path in _index_paths(place):
            if _write_index(path, index, about):
                break
    return index


def _index_paths(place: str) -> Iterator[Path]:
    """Yield the paths where an index may be stored, the preferred one first."""
    if not is_address(place):
        yield Path(place + SUFFIX)
    yield _in_cache(place, SUFFIX)


def _in_cache(place: str, suffix: str) -> Path:
    whole = place if is_address(place) else os.path.abspath(place)
    name = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache_folder() / "tars" / f"{name}{suffix}"


@contextlib.contextmanager
def _index_lock(place: str) -> Iterator[None]:
    """Make other processes of this machine wait instead of building the same index. Does nothing without file locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(file_lock(_in_cache(place, ".lock")))
        yield


def _build_index(place: str, size: int) -> TarIndex:
    """Read the headers of a tar, up to the first damaged one."""
    numbers: dict[str, int] = {}
    kinds: dict[str, int] = {}
    places: dict[str, tuple[str, int, int]] = {}  # name, start and size of each member, by its path
    links = TarLinks()
    damage = ""
    is_indexed = not is_address(place)
    try:
        with (
            open_binary(place, seekable=False) as stream,
            open_tar(stream, is_indexed=is_indexed, is_plain=True) as archive,
        ):
            for member in iter_members(archive):
                links.add(member)
                name, *_ = places.pop(unpack_path(member), (member.name,))
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    damage = f"it has {size} bytes, but {member.name} ends at byte {member.offset_data + member.size}"
                    break
                places[unpack_path(member)] = name, member.offset_data, member.size
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file") from error
    except TAR_ERRORS as error:
        damage = str(error) or type(error).__name__
        if not places:
            with open_binary(place, seekable=False) as stream:
                if detect_compression(stream.read(8)):
                    raise compressed_tar_error(place) from error
    for path, target in links:
        if target in places:
            places[path] = path, *places[target][1:]
    rows: list[tuple[int, int, int, int]] = []
    for name, start, length in places.values():
        key, kind = _split_name(name)
        if kind:
            number = numbers.setdefault(key, len(numbers))
            rows.append((number, kinds.setdefault(kind, len(kinds)), start, length))
    table = np.array(sorted(rows, key=lambda row: row[0]), dtype=np.int64).reshape(-1, 4)
    keys = "\0".join(numbers).encode("utf-8", "surrogateescape")
    arrays: dict[str, NDArray[Any]] = {
        "samples": table[:, 0].astype(np.int32),
        "kind": table[:, 1].astype(np.uint16),
        "starts": table[:, 2].copy(),
        "sizes": table[:, 3].copy(),
    }
    return TarIndex(keys, tuple(kinds), **arrays, damage=damage, digest=_digest(keys, tuple(kinds), arrays))


def compressed_tar_error(place: str) -> DataError:
    """Return the error for a compressed tar."""
    return DataError(
        f"{place} is compressed, so single members cannot be read from it; decompress it first (gunzip)"
    )


def _split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and kind. Hidden files and names without a suffix have no kind."""
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return folder + slash + key, kind.lower() if key else ""


def _read_index(path: Path, about: dict[str, Any]) -> TarIndex | None:
    """Read a stored index; None if it belongs to another tar or is damaged, so that a new one is built."""
    try:
        arrays = {name: tensor.numpy() for name, tensor in read_npz(path).items()} if path.exists() else {}
        facts = json.loads(arrays.pop("about").tobytes())
        if any(facts.pop(key, None) != value for key, value in about.items()):
            return None
        keys, kinds, damage = (
            arrays.pop("keys").tobytes(),
            tuple(facts.pop("kinds")),
            str(facts.pop("damage")),
        )
        index = TarIndex(keys, kinds, **arrays, damage=damage, digest=_digest(keys, kinds, arrays))
        return index if index.digest == facts.pop("digest") and _is_consistent(index, about["size"]) else None
    except (CheckpointError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _is_consistent(index: TarIndex, size: int) -> bool:
    """Tell whether all numbers of an index refer to existing samples and kinds, and to bytes of the tar."""
    arrays: tuple[NDArray[Any], ...] = (index.samples, index.kind, index.starts, index.sizes)
    dtypes = (np.int32, np.uint16, np.int64, np.int64)
    if any(array.dtype != dtype or array.ndim != 1 for array, dtype in zip(arrays, dtypes, strict=True)):
        return False
    if len({len(array) for array in arrays}) != 1 or not all(isinstance(kind, str) for kind in index.kinds):
        return False
    if not len(index.samples):
        return not index.kinds
    ends = index.starts + index.sizes
    return bool(
        index.samples[0] == 0
        and (np.diff(index.samples) >= 0).all()
        and index.samples[-1] == index.keys.count(b"\0")
        and index.kind.max() < len(index.kinds)
        and index.starts.min() >= 0
        and index.sizes.min() >= 0
        and index.starts.max() <= size
        and 0 <= ends.min() <= ends.max() <= size
    )


def _digest(keys: bytes, kinds: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return text that changes with anything in an index."""
    digest = hashlib.sha256(keys + "\0".join(kinds).encode("utf-8", "surrogateescape"))
    for name in ("samples", "kind", "starts", "sizes"):
        digest.update(arrays[name].astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def _write_index(path: Path, index: TarIndex, about: dict[str, Any]) -> bool:
    """Write an index atomically; False if the folder is not writable."""
    facts = {**about, "kinds": index.kinds, "damage": index.damage, "digest": index.digest}
    content = io.BytesIO()
    np.savez(
        content,
        about=np.frombuffer(json.dumps(facts).encode(), np.uint8),
        keys=np.frombuffer(index.keys, np.uint8),
        samples=index.samples,
        kind=index.kind,
        starts=index.starts,
        sizes=index.sizes,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path, durable=False) as temporary:
            temporary.write_bytes(content.getvalue())
    except OSError:
        return False
    return True
