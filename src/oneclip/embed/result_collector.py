"""Write the results of workers to the output and the table of errors, and count them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oneclip.embed.errors_table import ErrorTable
from oneclip.embed.items import Failure
from oneclip.embed.run import Outcome
from oneclip.embed.store import Store
from oneclip.embed.work_units import Answer, Group
from oneclip.errors import CheckpointError


class Ledger:
    """Takes answers in any order.

    Args:
        store: where vectors go.
        outcome: counts here.

    Attributes:
        unlisted: sources that could not be listed, or not to their end.
    """

    def __init__(self, store: Store, outcome: Outcome) -> None:
        self._store, self.outcome = store, outcome
        self._errors: ErrorTable
        self.unlisted: list[Failure] = []
        self._places: dict[str, tuple[int, int, str]] = {}  # of items by key: unit, index, name

    @contextmanager
    def counting(self, errors: ErrorTable) -> Iterator[None]:
        """List failures in a table that has been entered; however this ends, say how many."""
        self._errors = errors
        try:
            yield
        finally:
            self.outcome.failed, self.outcome.first_failures = errors.count, errors.first
            self.outcome.errors = errors.place if errors.count else None

    def names(self) -> list[str]:
        """Of all items, in the order of the sources."""
        return [name for _, _, name in sorted(self._places.values())]

    def take(self, group: Group) -> None:
        """Store and count answers that have not come before.

        Raises:
            CheckpointError: if they are the first, and the model gave no finite numbers for any of them.
            OutputError: if the disk refuses.
        """
        self.outcome.not_read.update(group.not_read or {})
        tried = [answer for answer in group.answers if answer.is_tried]
        sees = self._store.facts.kind == "pictures"
        if sees and len(tried) > 1 and not self.outcome.done and all(a.vector is None for a in tried):
            raise CheckpointError(str(tried[0].reason))  # it is the model, not the pictures
        for index, answer in enumerate(group.answers, group.first):
            if answer.key is None:
                failure = Failure(answer.name, str(answer.reason), answer.hides_others)
                self._errors.add(failure)
                self.unlisted.append(failure)
            elif (known := self._places.get(answer.key)) is None:
                self._places[answer.key] = (group.unit, index, answer.name)
                self._take(answer)
            elif (group.unit, index) < known[:2]:  # what a source names twice stands where it is named first
                self._places[answer.key] = (group.unit, index, known[2])

    def _take(self, answer: Answer) -> None:
        fault = None if answer.vector is None else self._store.fault(answer.name)
        reason = answer.reason or fault
        if reason is not None:
            self._errors.add(Failure(answer.name, reason))
            if answer.digest is not None and fault is None:
                self._store.forget(answer.name)  # a vector of other content is none either
        elif answer.vector is None and self._store.keep(answer.name, str(answer.digest), answer.stamp):
            self.outcome.kept += 1
        else:
            digest = str(answer.digest)
            vector = answer.vector if answer.vector is not None else self._store.find(digest)
            if vector is None:
                self._errors.add(
                    Failure(
                        answer.name, "its vector of an earlier run cannot be read; run again to make it anew"
                    )
                )
                return
            self._store.add(answer.name, digest, vector, answer.stamp)
            if answer.is_new:
                self.outcome.encoded += 1
            else:
                self.outcome.repeated += 1
