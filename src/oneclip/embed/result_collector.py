"""Write the results of workers to the output and the error table, and count them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oneclip.embed.errors_table import ErrorTable
from oneclip.embed.items import Failure
from oneclip.embed.run import EmbedOutcome
from oneclip.embed.store import EmbeddingStore
from oneclip.embed.work_units import ItemResult, ResultBatch
from oneclip.errors import CheckpointError


class ResultCollector:
    """Collector of result batches in any order.

    Args:
        store: receives the embeddings.
        outcome: receives the counts.

    Attributes:
        unlisted: sources that could not be listed completely.
    """

    def __init__(self, store: EmbeddingStore, outcome: EmbedOutcome) -> None:
        self._store, self.outcome = store, outcome
        self._errors: ErrorTable
        self.unlisted: list[Failure] = []
        self._places: dict[str, tuple[int, int, str]] = {}  # position of items by key: unit, index, name

    @contextmanager
    def counting(self, errors: ErrorTable) -> Iterator[None]:
        """Use an open error table for failures, and copy its counts to the outcome at the end, also after an error."""
        self._errors = errors
        try:
            yield
        finally:
            self.outcome.record_failures(errors)

    def names(self) -> list[str]:
        """Return the names of all items in the order of the sources."""
        return [name for _, _, name in sorted(self._places.values())]

    def add(self, batch: ResultBatch) -> None:
        """Store and count results.

        Raises:
            CheckpointError: if this is the first batch and the model returned no finite numbers for any item.
            OutputError: if the output cannot be written.
        """
        self.outcome.not_read.update(batch.not_read or {})
        tried = [result for result in batch.results if result.is_tried]
        is_image = self._store.metadata.kind == "images"
        if is_image and len(tried) > 1 and not self.outcome.done and all(a.vector is None for a in tried):
            raise CheckpointError(str(tried[0].reason))  # the model is at fault, not the images
        for index, result in enumerate(batch.results, batch.first):
            if result.key is None:
                failure = Failure(result.name, str(result.reason), result.hides_others)
                self._errors.add(failure)
                self.unlisted.append(failure)
            elif (known := self._places.get(result.key)) is None:
                self._places[result.key] = (batch.unit, index, result.name)
                self._add(result)
            elif (batch.unit, index) < known[:2]:  # a repeated item keeps its first position
                self._places[result.key] = (batch.unit, index, known[2])

    def _add(self, result: ItemResult) -> None:
        invalid = None if result.vector is None else self._store.invalid_name_reason(result.name)
        reason = result.reason or invalid
        if reason is not None:
            self._errors.add(Failure(result.name, reason))
            if result.digest is not None and invalid is None:
                self._store.forget(result.name)  # the old embedding is of other content
        elif result.vector is None and self._store.keep(result.name, str(result.digest), result.stamp):
            self.outcome.kept += 1
        else:
            digest = str(result.digest)
            vector = result.vector if result.vector is not None else self._store.find(digest)
            if vector is None:
                self._errors.add(
                    Failure(
                        result.name,
                        "its embedding of an earlier run cannot be read; run again to encode it again",
                    )
                )
                return
            self._store.add(result.name, digest, vector, result.stamp)
            if result.is_new:
                self.outcome.encoded += 1
            else:
                self.outcome.repeated += 1
