"""A tar file to where its members are: made once, kept as NAME.tar.index beside it or in the cache.

The members of one sample share a name up to the first dot of the file's name, and differ in what follows, their kind:
`a/000123.jpg` and `a/000123.txt`. Of members of one name the last counts, as tar unpacks them; a link counts as what it
leads to in the tar, and not at all where that is nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from oneclip.checkpoint.readers.npz import read_npz
from oneclip.errors import CheckpointError, DataError
from oneclip.hub.addresses import is_address, open_binary
from oneclip.hub.cache import cache_folder
from oneclip.hub.ranges import stamp
from oneclip.hub.tars import DAMAGE, Links, compression, members, open_tar, path_of

FORMAT = 2
SUFFIX = ".index"


@dataclass(frozen=True)
class TarIndex:
    """Members of a tar, sorted by sample; samples stand in the order in which they begin.

    Attributes:
        keys: names of samples, joined by zero bytes.
        kinds: that occur, such as "jpg".
        samples: (n,) int32 the sample that each member is of.
        kind: (n,) uint16 which of `kinds` it is.
        starts, sizes: (n,) int64 its place in the tar, in bytes.
        damage: why the tar ends before its end; "" if it does not.
        digest: text that changes with names, places and sizes of members.
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
    """The index of a tar: the one that is kept if the tar has still the same size and time (or ETag), or a new one.

    Raises:
        DataError: if there is no such file, or it is no tar file.
        DownloadError: if an address does not give it.
    """
    size, change = stamp(place)
    about = {"format": FORMAT, "size": size, "change": change}
    for path in _homes(place):
        found = _kept(path, about)
        if found is not None:
            return found
    with _alone(place):
        for path in _homes(place):  # another process may have been at it
            found = _kept(path, about)
            if found is not None:
                return found
        index = _made(place, size)
        for path in _homes(place):
            if _keep(path, index, about):
                break
    return index


def _homes(place: str) -> Iterator[Path]:
    """Where an index may be kept, the best place first."""
    if not is_address(place):
        yield Path(place + SUFFIX)
    yield _in_cache(place, SUFFIX)


def _in_cache(place: str, suffix: str) -> Path:
    whole = place if is_address(place) else os.path.abspath(place)
    name = hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return cache_folder() / "tars" / f"{name}{suffix}"


@contextlib.contextmanager
def _alone(place: str) -> Iterator[None]:
    """While it lasts, other processes of this machine wait to make the same index; not where there can be no locks."""
    lock = FileLock(_in_cache(place, ".lock"))
    with contextlib.suppress(OSError):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made(place: str, size: int) -> TarIndex:
    """Read the headers of a tar; one that is damaged gives what comes before."""
    numbers: dict[str, int] = {}
    kinds: dict[str, int] = {}
    places: dict[str, tuple[str, int, int]] = {}  # name and content of each member, by its path
    links = Links()
    damage = ""
    is_indexed = not is_address(place)
    try:
        with (
            open_binary(place, seekable=False) as stream,
            open_tar(stream, is_indexed=is_indexed, is_plain=True) as archive,
        ):
            for member in members(archive):
                links.see(member)
                name, *_ = places.pop(path_of(member), (member.name,))
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    damage = (
                        f"it has {size} bytes, and {member.name} ends at {member.offset_data + member.size}"
                    )
                    break
                places[path_of(member)] = name, member.offset_data, member.size
    except FileNotFoundError as error:
        raise DataError(f"{place}: no such file") from error
    except DAMAGE as error:
        damage = str(error) or type(error).__name__
        if not places:
            with open_binary(place, seekable=False) as stream:
                if compression(stream.read(8)):
                    raise compressed(place) from error
    for path, target in links:
        if target in places:
            places[path] = path, *places[target][1:]
    rows: list[tuple[int, int, int, int]] = []
    for name, start, length in places.values():
        key, kind = _split(name)
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


def compressed(place: str) -> DataError:
    """What to raise for a tar that is compressed, whatever it is called."""
    return DataError(f"{place} is compressed, so that its members cannot be read alone; unpack it (gunzip)")


def _split(name: str) -> tuple[str, str]:
    """The key and the kind of a member; no kind for what is hidden or has no suffix."""
    folder, slash, file = name.rpartition("/")
    key, _, kind = file.partition(".")
    return folder + slash + key, kind.lower() if key else ""


def _kept(path: Path, about: dict[str, Any]) -> TarIndex | None:
    """The index in a file, if it is of the same tar; None also for a damaged file, which is made anew."""
    try:
        held = {name: tensor.numpy() for name, tensor in read_npz(path).items()} if path.exists() else {}
        facts = json.loads(held.pop("about").tobytes())
        if any(facts.pop(key, None) != value for key, value in about.items()):
            return None
        keys, kinds, damage = held.pop("keys").tobytes(), tuple(facts.pop("kinds")), str(facts.pop("damage"))
        index = TarIndex(keys, kinds, **held, damage=damage, digest=_digest(keys, kinds, held))
        return index if index.digest == facts.pop("digest") and _fits(index, about["size"]) else None
    except (CheckpointError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return None


def _fits(index: TarIndex, size: int) -> bool:
    """Whether an index speaks of samples and kinds that it has, and of places in the tar."""
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
    """Text that changes with anything in an index."""
    digest = hashlib.sha256(keys + "\0".join(kinds).encode("utf-8", "surrogateescape"))
    for name in ("samples", "kind", "starts", "sizes"):
        digest.update(arrays[name].astype(np.int64).tobytes())
    return digest.hexdigest()[:16]


def _keep(path: Path, index: TarIndex, about: dict[str, Any]) -> bool:
    """Write an index under its name when it is whole; False where that is not allowed."""
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
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content.getvalue())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        return False
    return True
