"""Lance datasets of images: open one, build its approximate index, and search it.

The default index is IVF_SQ: partitions of vectors with 8 bits for each number. It finds what IVF_FLAT finds, and reads
a quarter of its bytes. The codes of IVF_PQ are too coarse for texts, whose nearest images differ little in cosine, and
IVF_HNSW_SQ is slower to build and to search, since texts need many partitions (`benchmarks/lance_indexes.py`).

Shapes: N rows, D joint embedding, K results.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from oneclip.embed.formats.lance import SUFFIX, error_text, import_lance, is_lance_dataset
from oneclip.embed.formats.parquet import metadata_of_schema
from oneclip.embed.outputs import parse_output
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import ConfigError, DataError, OfflineError, OneCLIPError
from oneclip.hub.cache import OFFLINE_REASON, offline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Features

INDEX_FROM = 20_000  # rows; Lance searches fewer in a fraction of a second without an index
ROWS_PER_PARTITION = 1_000
MAX_PARTITIONS = 8_192
REFINE_FACTOR = 5  # candidates per result that get their exact product
_CENTROIDS = "LANCE_INCLUDE_VECTOR_CENTROIDS"
LOADED_FROM = "oneclip.loaded_from"  # in the schema of a dataset: the model as `oneclip.load` takes it
PROBES = "oneclip.nprobes"  # in the configuration of a dataset


def open_lance(
    location: str | Path,
    storage_options: Mapping[str, str] | None = None,
    *,
    feature: str = "Searching Lance",
) -> Any:
    """Open a dataset, or return None if there is none.

    Args:
        location: path or address, such as `s3://bucket/photos.lance`.
        storage_options: of the store, such as its region or endpoint; by default from the environment.
        feature: what needs Lance, for the error message.

    Raises:
        DataError: if it cannot be opened.
        OfflineError: if it is remote and the network is switched off.
        MissingExtraError: if Lance is not installed.
    """
    place = parse_output(location)
    if isinstance(place, Path) and not is_lance_dataset(place):
        return None
    if isinstance(place, str) and offline():
        raise OfflineError(f"{place}: {OFFLINE_REASON}")
    lance = import_lance(feature)
    try:
        return lance.dataset(str(place), storage_options=dict(storage_options or {}) or None)
    except Exception as error:  # Lance raises OSError, ValueError, RuntimeError, and PanicException
        if isinstance(place, str) and "not found" in str(error).lower():
            return None
        raise DataError(f"{place} cannot be opened: {error_text(error)}") from error


def is_lance_location(location: str | Path) -> bool:
    """Return whether a path or address names a Lance dataset."""
    return str(location).rstrip("/\\").lower().endswith(SUFFIX)


def read_metadata(dataset: Any, location: object) -> EmbeddingMetadata:
    """Return the settings that made the embeddings of a dataset.

    Raises:
        DataError: if `oneclip` did not write it, or it contains embeddings of texts.
    """
    try:
        metadata = metadata_of_schema(dataset.schema)
    except KeyError as error:
        raise DataError(
            f"{location} does not say which model made its vectors; "
            "expected a dataset of `oneclip embed` or `oneclip index export`"
        ) from error
    if metadata.kind != "images":
        raise DataError(f"{location} contains embeddings of {metadata.kind}; expected embeddings of images")
    return metadata


@contextmanager
def lance_errors(location: object, error_type: type[OneCLIPError], what: str) -> Iterator[None]:
    """Turn the exceptions of Lance into one of ours: `LOCATION could not be WHAT: …`. Ours pass."""
    try:
        yield
    except OneCLIPError:
        raise
    except Exception as error:
        reason = error_text(error).partition("\n")[0]  # stores answer with XML
        raise error_type(f"{location} could not be {what}: {reason}") from error


# --------------------------------------------------------------------------------------------------- approximate index


def vector_index(dataset: Any) -> Any:
    """Return Lance's description of the index of the vectors, or None."""
    return next((index for index in dataset.describe_indices() if index.field_names == ["vector"]), None)


def partitions_of(dataset: Any, name: str) -> int:
    """Return the number of partitions of an index."""
    before = os.environ.get(_CENTROIDS)
    os.environ[_CENTROIDS] = "false"  # else Lance returns all of them too, and warns
    try:
        parts = dataset.stats.index_stats(name).get("indices") or [{}]
    finally:
        if before is None:
            del os.environ[_CENTROIDS]
        else:
            os.environ[_CENTROIDS] = before
    return max(int(part.get("num_partitions", 1)) for part in parts)


def wanted_partitions(rows: int) -> int:
    """Return how many partitions an index of so many rows has."""
    return max(2, min(MAX_PARTITIONS, rows // ROWS_PER_PARTITION))


def update_vector_index(dataset: Any, kind: str) -> str | None:
    """Build the approximate index, or add new rows to it.

    Args:
        dataset: to index.
        kind: "auto", "none", or a kind of Lance such as "IVF_SQ". "auto" indexes from `INDEX_FROM` rows.

    Returns:
        The kind of the index, or None.

    Raises:
        ConfigError: for an unknown kind.
    """
    known = ("auto", "none", "IVF_FLAT", "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_SQ")
    if kind not in known:
        raise ConfigError(f"unknown index {kind!r}; available: {', '.join(known)}")
    existing, rows = vector_index(dataset), dataset.count_rows()
    if kind == "none" or (kind == "auto" and rows < INDEX_FROM):
        if existing is not None:
            dataset.drop_index(existing.name)
        return None
    partitions = wanted_partitions(rows)
    if existing is not None and kind in ("auto", existing.index_type):
        is_sized = 0.5 <= partitions / partitions_of(dataset, existing.name) <= 2
        if is_sized:
            dataset.optimize.optimize_indices()
            return str(existing.index_type)
    kind = "IVF_SQ" if kind == "auto" else kind
    dim = dataset.schema.field("vector").type.list_size
    options = {"num_sub_vectors": next(n for n in (8, 4, 2, 1) if dim % n == 0)} if kind == "IVF_PQ" else {}
    if options:
        options["num_sub_vectors"] = dim // options["num_sub_vectors"]
    dataset.create_index("vector", kind, metric="cosine", num_partitions=partitions, replace=True, **options)
    return kind


def default_probes(dataset: Any) -> int:
    """Return how many partitions a search reads: as measured, or else a tenth of them."""
    try:
        return max(1, int(dataset.config()[PROBES]))
    except (KeyError, ValueError):
        found = vector_index(dataset)
        return 1 if found is None else max(20, partitions_of(dataset, found.name) // 10)


def nearest(
    dataset: Any,
    query: Features,
    k: int,
    *,
    columns: Sequence[str],
    condition: str | None = None,
    probes: int | None = None,
    refine_factor: int | None = None,
) -> Any:
    """Return the table of the K rows nearest to a query (D,), among those that meet a condition.

    Args:
        columns: to read; the vectors are needed for exact scores, the distances of an index are not.
        probes: partitions to read; None searches exactly.
    """
    options: dict[str, Any] = {"use_index": False}
    if probes is not None:
        options = {"minimum_nprobes": probes, "refine_factor": refine_factor or REFINE_FACTOR}
    scanner = dataset.scanner(
        columns=[*columns, "_distance"],
        nearest={"column": "vector", "q": query, "k": k, "metric": "cosine", **options},
        filter=condition,
        prefilter=True,
    )
    return scanner.to_table()


def quoted(text: str) -> str:
    """Return a text as a literal of Lance's conditions."""
    return "'" + text.replace("'", "''") + "'"


def sample_rows(dataset: Any, count: int, columns: Sequence[str]) -> Any:
    """Return the table of at most `count` rows, spread evenly over a dataset."""
    rows = dataset.count_rows()
    places = np.unique(np.linspace(0, max(rows - 1, 0), min(count, rows)).astype(np.int64))
    return dataset.take(places.tolist(), columns=list(columns))


def vectors_of(table: Any) -> NDArray[np.float32]:
    """Return the vectors of an Arrow table or batch: (N, D) float32."""
    column = table["vector"]
    width = column.type.list_size
    chunks = getattr(column, "chunks", [column])
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in chunks]
    return np.concatenate([np.empty((0, width), np.float32), *parts]).astype(np.float32)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to unit length."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
