"""Export an index as a Lance dataset, the one that `oneclip embed -o X.lance` writes, with facts about the images.

    export_lance(index, "s3://bucket/photos.lance")

`oneclip embed` can continue the dataset, on one machine or on a Ray cluster, and `LanceSearch` searches it. Each batch
is a version of the dataset, which readers see completely or not at all; an export that is interrupted is continued by
the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.embed.formats.lance import check_lance, import_lance, is_lance_dataset
from oneclip.embed.formats.parquet import STAMP_COLUMNS, rows_to_table
from oneclip.embed.outputs import parse_output
from oneclip.embed.rows import EmbeddingMetadata, EmbeddingRows
from oneclip.embed.run_lock import RunLock
from oneclip.errors import ConfigError, DataError, OutputError
from oneclip.progress import Progress, report_progress
from oneclip.search.handover.lance_dataset import (
    LOADED_FROM,
    is_lance_location,
    lance_errors,
    open_lance,
    quoted,
    read_metadata,
    update_vector_index,
)
from oneclip.search.handover.lance_recall import MEASURED, GroundTruth, calibrate_probes
from oneclip.search.handover.rows import ExportBatch, ExportResult, IndexExport, unknown_as_number

if TYPE_CHECKING:
    from oneclip.encoder import Features
    from oneclip.search.index import Index

_CHANGED_ROWS = 10_000  # that one version replaces
_NAMES_PER_DELETE = 1_000
SCALAR_INDEXES = {"name": "BTREE", "taken_at": "BTREE", "format": "BITMAP"}
"""Indexes of a dataset that has a vector index: for replacing rows, and for filters that a scan would dominate."""


def export_lance(
    index: Index,
    location: str | Path,
    *,
    overwrite: bool = False,
    stored: Literal["fp32", "fp16"] | None = None,
    vector_index: str = "auto",
    storage_options: Mapping[str, str] | None = None,
    progress: Progress = False,
) -> ExportResult:
    """Write the images of an index to a Lance dataset, or bring the dataset up to date.

    Args:
        index: to export.
        location: path or address that ends in .lance, such as `s3://bucket/photos.lance`.
        overwrite: replace an existing dataset.
        stored: type of the vectors; None for that of the dataset, or "fp32" for a new one, as `oneclip embed` does.
        vector_index: "auto" for none below 20,000 rows and "IVF_SQ" above; "none"; or a kind of Lance: "IVF_FLAT",
            "IVF_SQ", "IVF_PQ", "IVF_RQ", "IVF_HNSW_SQ".
        storage_options: of the object store; by default from the environment, such as AWS_REGION.
        progress: see `oneclip.progress`; counts images.

    Raises:
        ConfigError: for a location without the suffix .lance, or an unknown kind of index.
        DataError: if the index has no images.
        OutputError: if the dataset cannot be written, or another model made it; what was written is kept.
        MissingExtraError: if Lance is not installed.
    """
    if not is_lance_location(location):
        raise ConfigError(f"{location} must end in .lance")
    import_lance()
    export = IndexExport(index)
    place = parse_output(location)
    with _locked(place, overwrite), lance_errors(place, OutputError, "written"):
        dataset = open_lance(place, storage_options, feature="Writing Lance")
        target = _Target(export, place, storage_options, dataset, overwrite, stored)
        result = target.write(progress)
        dataset = target.open()
        result.rows = dataset.count_rows()
        result.vector_index = update_vector_index(dataset, vector_index)
        if result.vector_index is not None:
            _update_scalar_indexes(target.open())
            dataset = target.open()
            truths = [GroundTruth(dataset, MEASURED), GroundTruth(dataset, _text_vectors(index))]
            result.image_recall, result.text_recall = calibrate_probes(dataset, truths)
    return result


class _Target:
    """Dataset that receives the rows of an index."""

    def __init__(
        self,
        export: IndexExport,
        place: str | Path,
        storage_options: Mapping[str, str] | None,
        dataset: Any,
        overwrite: bool,
        stored: str | None,
    ) -> None:
        self._export, self._place = export, place
        self._options = dict(storage_options or {}) or None
        self._mode = "create" if dataset is None else "overwrite" if overwrite else "append"
        self._dataset = None if overwrite else dataset
        self._metadata = replace(export.metadata, stored=stored or "fp32")
        if self._dataset is not None:
            found = _metadata_or_refuse(self._dataset, place)
            self._metadata = replace(self._metadata, stored=stored or found.stored)
            self._metadata.require_same(found, place)

    def open(self) -> Any:
        """Open the latest version."""
        return import_lance().dataset(str(self._place), storage_options=self._options)

    def write(self, progress: Progress) -> ExportResult:
        export = self._export
        if self._dataset is not None:
            self._add_columns(self._dataset)
        changes = export.compare(self._existing_rows())
        result = ExportResult(str(self._place), skipped=export.skipped)
        result.unchanged = len(export.entries) - len(changes.added) - len(changes.changed)
        with report_progress(progress, len(export.entries), "images") as count:
            count(result.unchanged)
            for batch in export.batches(changes.changed, _CHANGED_ROWS):
                merge = self.open().merge_insert("name")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(self._table(batch))
                result.changed += len(batch.entries)
                count(len(batch.entries))
            for batch in export.batches(changes.added):
                self._append(self._table(batch))
                result.added += len(batch.entries)
                count(len(batch.entries))
        for start in range(0, len(changes.removed), _NAMES_PER_DELETE):
            names = changes.removed[start : start + _NAMES_PER_DELETE]
            self.open().delete(f"name IN ({', '.join(map(quoted, names))})")
            result.removed += len(names)
        if changes.changed or changes.removed:
            self.open().optimize.compact_files()
        return result

    def _append(self, table: Any) -> None:
        import_lance().write_dataset(table, str(self._place), mode=self._mode, storage_options=self._options)
        self._mode = "append"

    def _existing_rows(self) -> Iterator[tuple[str, str, int | None, int | None]]:
        """Yield name, digest and stamp of each row; an empty digest if its facts are unknown."""
        if self._dataset is None:
            return
        columns = ["name", "sha256", *STAMP_COLUMNS, "width"]
        for batch in self.open().to_batches(columns=columns):
            for name, digest, size, mtime_ns, width in zip(
                *(batch[c].to_pylist() for c in columns), strict=True
            ):
                yield name, "" if width is None else digest, size, mtime_ns

    def _add_columns(self, dataset: Any) -> None:
        """Add the columns that a dataset of `oneclip embed` does not have, without values."""
        import pyarrow as pa

        wanted = [pa.field(name, pa.int64()) for name in STAMP_COLUMNS] + list(facts_schema())
        missing = [field for field in wanted if field.name not in dataset.schema.names]
        if missing:
            dataset.add_columns(pa.schema(missing))

    def _table(self, batch: ExportBatch) -> Any:
        import pyarrow as pa

        rows = EmbeddingRows(
            [entry.path for entry in batch.entries],
            [entry.sha256 for entry in batch.entries],
            batch.vectors.astype(self._metadata.dtype),
            [(unknown_as_number(entry.size), unknown_as_number(entry.mtime_ns)) for entry in batch.entries],
        )
        table = rows_to_table(rows, self._metadata)
        facts = [self._export.facts(entry) for entry in batch.entries]
        for field in facts_schema():
            if field.name == "log_normalizer":
                missing = np.isnan(batch.log_normalizers)
                column = pa.array(batch.log_normalizers, pa.float32(), mask=missing)
            else:
                column = pa.array([row[field.name] for row in facts], field.type)
            table = table.append_column(field, column)
        return table.replace_schema_metadata({**table.schema.metadata, LOADED_FROM: self._export.model})


def facts_schema() -> Any:
    """Return the columns of a dataset that `oneclip embed` does not write; all may be unknown."""
    import pyarrow as pa

    return pa.schema(
        {
            "path": pa.string(),
            "width": pa.int32(),
            "height": pa.int32(),
            "format": pa.string(),
            "taken_at": pa.string(),
            "camera": pa.string(),
            "latitude": pa.float64(),
            "longitude": pa.float64(),
            "perceptual_hash": pa.int64(),
            "log_normalizer": pa.float32(),
        }
    )


@contextmanager
def _locked(place: str | Path, overwrite: bool) -> Iterator[None]:
    """Exclude other writers of a local dataset; an object store has no locks."""
    if isinstance(place, str):
        yield
        return
    check_lance(place, overwrite=overwrite)
    lock = RunLock(place, place)
    try:
        yield
    finally:
        lock.release(is_empty=not is_lance_dataset(place))


def _metadata_or_refuse(dataset: Any, place: str | Path) -> EmbeddingMetadata:
    try:
        return read_metadata(dataset, place)
    except DataError as error:
        raise OutputError(f"{error}. Choose another output, or overwrite it") from error


def _update_scalar_indexes(dataset: Any) -> None:
    """Build the indexes of `SCALAR_INDEXES` that are missing; `optimize_indices` has updated the others."""
    present = {field for index in dataset.describe_indices() for field in index.field_names}
    for column, kind in SCALAR_INDEXES.items():
        if column not in present:
            dataset.create_scalar_index(column, kind)


def _text_vectors(index: Index) -> Features:
    """Return embeddings of texts to measure with: (Q, D)."""
    from oneclip.text.generic_texts import generic_texts

    texts = index.relevance.texts
    if not len(texts):
        texts = index.encoder.encode_texts(generic_texts())
    return texts[:: max(1, len(texts) // MEASURED)]
