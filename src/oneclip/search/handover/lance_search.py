"""Search a Lance dataset of images, on disk or on object storage, by words and by images.

    search = LanceSearch("s3://bucket/photos.lance")
    search.search("a red car", where="taken_at >= 2023", top_k=20)

The dataset was written by `oneclip index export`, or by `oneclip embed`, also on a Ray cluster; those of `embed`
have no facts about the images. The search is approximate if the dataset has an index of Lance, otherwise exact; scores
are exact in both.

Shapes: N rows, Q parts of a query, D joint embedding, K results.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from oneclip.embed.rows import EmbeddingMetadata
from oneclip.errors import ConfigError, DataError
from oneclip.search.filter_syntax import And, Node, Or, Within, parse_filter
from oneclip.search.handover.lance_dataset import (
    LOADED_FROM,
    default_probes,
    lance_errors,
    nearest,
    open_lance,
    partitions_of,
    quoted,
    read_metadata,
    sample_rows,
    unit,
    vector_index,
    vectors_of,
)
from oneclip.search.handover.lance_recall import MEASURED, GroundTruth
from oneclip.search.handover.lance_results import FACTS, FoundRows, log_normalizers_of
from oneclip.search.query import Query, check_search, encode_queries, parse_queries, require_same_model
from oneclip.search.ranking import find_repeated, keep_hits, text_relevances
from oneclip.search.relevance import RelevanceModel
from oneclip.search.results import SearchResults
from oneclip.search.where import compile_lance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from oneclip.encoder import Encoder, Features

_SAMPLED = 4096  # rows whose mean and deviation stand for those of the dataset
_SOURCES = {  # columns of a dataset that a column of a filter is made of, where the names differ
    "name": ("path",),
    "folder": ("path",),
    "megapixels": ("width", "height"),
    "orientation": ("width", "height"),
    "place": ("latitude", "longitude"),
    "bytes": ("size",),
    "modified": ("mtime_ns",),
}


@dataclass(frozen=True)
class LanceStatus:
    """State of a dataset.

    Attributes:
        location: of the dataset.
        metadata: settings that made the embeddings.
        rows: images.
        version: of the dataset.
        vector_index: kind of the approximate index; None if the search is exact.
        partitions: of the index.
        probes: partitions that a search reads.
        unindexed: rows that were added since the index was built; a search reads them all.
        image_recall: share of the 10 nearest images of an image that a search finds; None if not measured.
    """

    location: str
    metadata: EmbeddingMetadata
    rows: int
    version: int
    vector_index: str | None
    partitions: int
    probes: int
    unindexed: int
    image_recall: float | None


class LanceSearch:
    """Search of a dataset, in the version that is the latest when it is opened.

    Args:
        location: path or address of the dataset.
        model: name of a model as in `oneclip.load`, or a loaded `Encoder`; None for the model of the dataset.
        device: of the model, see `oneclip.load`.
        precision: of the model; None for that of the dataset.
        storage_options: of the object store; by default from the environment, such as AWS_REGION.

    Raises:
        DataError: if there is no such dataset, it cannot be opened, or does not contain embeddings of images.
        ConfigError: at the first use of the model, if another one made the dataset.
        MissingExtraError: if Lance is not installed.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        model: str | Encoder | None = None,
        device: str | None = None,
        precision: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        self.location = str(location)
        dataset = open_lance(location, storage_options)
        if dataset is None:
            raise DataError(
                f"{location} is not a Lance dataset; write one: oneclip index export --to lance {location}"
            )
        self.dataset: Any = dataset
        self.metadata = read_metadata(dataset, location)
        self._given, self._device, self._precision = model, device, precision
        self._columns: frozenset[str] = frozenset(dataset.schema.names)

    def __repr__(self) -> str:
        return f"<LanceSearch {self.location}>"

    def __enter__(self) -> LanceSearch:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: a dataset holds no resources that must be released."""

    @property
    def model_name(self) -> str:
        """Name of the model."""
        return self.metadata.model

    @cached_property
    def encoder(self) -> Encoder:
        """The model, loaded at the first use.

        Raises:
            ConfigError: if another model made the dataset.
        """
        found, given = self.metadata, self._given
        if given is None:
            name = (self.dataset.schema.metadata or {}).get(LOADED_FROM.encode(), b"").decode()
            given = name or found.model
        if isinstance(given, str):
            import oneclip

            encoder = oneclip.load(given, device=self._device, precision=self._precision or found.precision)
        else:
            encoder = given
        decode: Any = found.decode
        require_same_model(
            f"the dataset {self.location}",
            found,
            EmbeddingMetadata.for_encoder(encoder, decode, found.stored),
            "write another dataset with this model: oneclip index export --to lance",
        )
        return encoder

    # ----------------------------------------------------------------------------------------------------- searching

    def search(
        self,
        *queries: object,
        like: object = None,
        exclude: object = None,
        where: str | None = None,
        top_k: int = 20,
        sort: Literal["relevance", "date"] = "relevance",
        min_relevance: float | None = None,
        distinct: bool = False,
        under: str | os.PathLike[str] | None = None,
        probes: int | None = None,
        refine_factor: int | None = None,
    ) -> SearchResults:
        """Find the images that fit all queries best.

        Args:
            queries, like, exclude, where, top_k, sort, min_relevance, distinct, under: as of `Index.search`.
            probes: partitions of the index to read; by default as many as had a recall of 0.99 when it was built.
            refine_factor: candidates per result whose exact score is computed.

        Raises:
            TextError, ImageError: for a query that cannot be encoded.
            QueryError: for a filter that cannot be understood.
            ConfigError: for other invalid arguments, or if another model made the dataset.
            DataError: for an empty dataset, or a filter over columns that it does not have.
        """
        for name, value in (("probes", probes), ("refine_factor", refine_factor)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected at least 1")
        parsed = parse_queries(queries, like, exclude)
        check_search(parsed, top_k=top_k, sort=sort, min_relevance=min_relevance)
        results = SearchResults([], self.location, self.model_name)
        condition = self._condition(where, under)
        with lance_errors(self.location, DataError, "searched"):
            if not self.dataset.count_rows():
                raise DataError(f"{self.location} has no images")
            results.searched = self.dataset.count_rows(filter=condition)
            vectors = encode_queries(self.encoder, parsed)
            factors, constants = self._standardization(parsed, vectors)
            wanted = top_k
            while results.searched:
                table = self._nearest(factors @ vectors, wanted, condition, probes, refine_factor)
                found = FoundRows(table, vectors, factors, constants)
                hits = found.hits(self._relevances(found, parsed))
                repeated = find_repeated(hits, found.vectors) if distinct else set()
                if len(hits) - len(repeated) >= top_k or wanted >= results.searched:
                    keep_hits(results, hits, repeated, top_k, sort, min_relevance)
                    break
                wanted *= 4
        return results

    def status(self, *, recall: bool = False) -> LanceStatus:
        """Return counts and settings of the dataset.

        Args:
            recall: measure it, which reads all vectors once.
        """
        with lance_errors(self.location, DataError, "read"):
            found, rows, measured = self._index, self.dataset.count_rows(), None
            if recall:
                measured = 1.0
                if found is not None and rows:
                    measured = GroundTruth(self.dataset, MEASURED).recall(self.dataset, self._probes)
            return LanceStatus(
                location=self.location,
                metadata=self.metadata,
                rows=rows,
                version=self.dataset.version,
                vector_index=None if found is None else found.index_type,
                partitions=0 if found is None else partitions_of(self.dataset, found.name),
                probes=0 if found is None else self._probes,
                unindexed=0 if found is None else max(0, rows - found.num_rows_indexed),
                image_recall=measured,
            )

    # ------------------------------------------------------------------------------------------------------- internals

    def _nearest(
        self, query: Features, k: int, condition: str | None, probes: int | None, refine_factor: int | None
    ) -> Any:
        wanted = ("name", "sha256", "vector", "log_normalizer", *FACTS)
        return nearest(
            self.dataset,
            query.astype(np.float32),
            k,
            columns=[name for name in wanted if name in self._columns],
            condition=condition,
            probes=None if self._index is None else probes or self._probes,
            refine_factor=refine_factor,
        )

    def _condition(self, where: str | None, under: str | os.PathLike[str] | None) -> str | None:
        """Compile the filters to a condition of Lance.

        Raises:
            QueryError: for a filter that cannot be understood.
            DataError: if the dataset does not have its columns.
        """
        conditions = []
        if where is not None:
            conditions.append(f"({compile_lance(where)})")
            missing = sorted(_columns_of(parse_filter(where)) - self._columns)
            if missing:
                raise DataError(
                    f"the filter needs {', '.join(missing)}, which {self.location} does not have: `oneclip embed` "
                    "writes no facts about images; `oneclip index export --to lance` does"
                )
        if under is not None:
            folder = os.path.realpath(under).rstrip(os.sep) + os.sep
            conditions.append(f"starts_with(name, {quoted(folder)})")
        return " AND ".join(conditions) or None

    @cached_property
    def _index(self) -> Any:
        """Description of the index of the vectors, or None."""
        return vector_index(self.dataset)

    @cached_property
    def _probes(self) -> int:
        return default_probes(self.dataset)

    @cached_property
    def _sample(self) -> tuple[Features, NDArray[np.float32]]:
        """Vectors and log normalizers, NaN if unknown, of contents spread evenly over the dataset."""
        columns = ["sha256", "vector", *({"log_normalizer"} & self._columns)]
        table = sample_rows(self.dataset, _SAMPLED, columns)
        _, places = np.unique(np.array(table["sha256"].to_pylist()), return_index=True)
        table = table.take(np.sort(places))
        return unit(vectors_of(table)), log_normalizers_of(table)

    def _standardization(
        self, queries: Sequence[Query], vectors: Features
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return factors (Q,) and constants (Q,): a score is `factors @ (cosines - constants)`.

        It is that of `VectorScan.top`, with the mean and the deviation of a sample.
        """
        weights = np.array([query.weight for query in queries], np.float32)
        if len(queries) == 1:
            return np.ones(1, np.float32), np.zeros(1, np.float32)
        cosines = self._sample[0] @ vectors.T  # (N, Q)
        deviations = cosines.std(axis=0)
        factors = weights / np.where(deviations > 1e-6, deviations, 1)
        return factors.astype(np.float32), cosines.mean(axis=0)

    @cached_property
    def _relevance(self) -> RelevanceModel:
        """The generic texts are encoded only if they are needed: rows of `oneclip embed` have no log normalizers."""
        scale, bias = self.encoder.logit_scale, self.encoder.logit_bias
        if bias is None and np.isnan(self._sample[1]).any():
            return RelevanceModel.from_encoder(self.encoder)
        return RelevanceModel(scale, bias, np.empty((0, 0), np.float32), "")

    @cached_property
    def _mean_log_normalizer(self) -> float:
        vectors, stored = self._sample
        model = self._relevance
        normalizers = model.log_normalizers(vectors) if len(model.texts) else stored
        return float(np.mean(normalizers, dtype=np.float64))

    def _relevances(self, found: FoundRows, queries: Sequence[Query]) -> list[float | None]:
        """Return the relevance of each result for the texts of the query; None if it wants no text."""
        if not any(query.is_text and query.weight > 0 for query in queries):
            return [None] * len(found.names)
        model, normalizers = self._relevance, found.log_normalizers
        if model.bias is None and np.isnan(normalizers).any() and not len(model.texts):
            model = self._relevance = RelevanceModel.from_encoder(self.encoder)
        if len(model.texts):
            normalizers = model.log_normalizers(found.vectors)
        mean = None if model.bias is not None else self._mean_log_normalizer
        return text_relevances(queries, found.cosines, normalizers, model, mean)


def _columns_of(node: Node) -> set[str]:
    """Return the columns of a dataset that a filter needs."""
    if isinstance(node, (And, Or)):
        return set().union(*map(_columns_of, node.parts))
    column = "place" if isinstance(node, Within) else node.column
    return set(_SOURCES.get(column, (column,)))
