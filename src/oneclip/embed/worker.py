"""Units of work to groups of answers, in a process of a cluster that loads its model once."""

from __future__ import annotations

import os
import pickle
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from oneclip._version import __version__
from oneclip.embed.batch_encoder import Decode, Model, preparation
from oneclip.embed.items import Failure, Found, Item, Source
from oneclip.embed.prefetch import Clock, Ready, Unread, read_ahead
from oneclip.embed.rows import Facts
from oneclip.embed.sources import not_read
from oneclip.embed.work_units import Answer, Group, Known, Unit
from oneclip.errors import OneCLIPError

if TYPE_CHECKING:
    from oneclip.encoder import Encoder

ATTEMPTS = 2  # that end with the death of a worker, with one item in hand: then it is that item
LOADS = 3  # likewise of a model, for each worker

Load = Callable[..., "Encoder"]  # called with `device`


@dataclass(frozen=True)
class Task:
    """What all workers are told.

    Attributes:
        load: gives the encoder, on a device that it is called with.
        device: which.
        decode: as of `embed`.
        batch_size: pictures that go through the model at once.
        threads: that a worker may use.
        workers: how many there are.
        folder: the driver's current one, to which relative paths are relative.
        verify: read files also where their size and time have not changed.
        version: of the driver's oneclip.
    """

    load: Load
    device: str
    decode: Decode
    batch_size: int
    threads: int
    workers: int
    folder: str
    verify: bool = False
    version: str = __version__


class Attempts:
    """How often units, single items and models were begun: lives in a process of its own, which survives the others."""

    def __init__(self) -> None:
        self._begun: Counter[tuple[object, ...]] = Counter()

    def begin(self, *what: object) -> int:
        """Note that something is begun; how often it now was."""
        self._begun[what] += 1
        return self._begun[what]

    def end(self, *what: object) -> None:
        """Note that it ended well."""
        self._begun[what] -= 1

    def deaths(self) -> int:
        """How many units were begun again."""
        return sum(times - 1 for what, times in self._begun.items() if what[0] == "unit" and len(what) == 2)


def meet(task: Task) -> tuple[Facts, int] | str:
    """What a worker's model makes vectors of, and D; or why it cannot be had."""
    try:
        encoder = _load(task)
    except (OneCLIPError, OSError) as error:
        return _here(error)
    return Facts.of(encoder, task.decode), encoder.embed_dim


class Worker:
    """Encodes units. What it needs from the cluster comes as functions, so that it knows nothing of it.

    Args:
        task: what to do.
        facts: what the first worker's model makes vectors of; this one's must be the same.
        known: gives what is done already; asked once.
        ask: calls a method of `Attempts`.
    """

    def __init__(
        self,
        task: Task,
        facts: Facts,
        known: Callable[[], Known],
        ask: Callable[..., Any],
    ) -> None:
        self._task, self._ask = task, ask
        self._problem: str | None = None
        if ask("begin", "load") > LOADS * task.workers:
            self._problem = _here(
                "workers died again and again while they loaded the model; is the memory too small?"
            )
            return
        try:
            encoder = _load(task)
        except (OneCLIPError, OSError) as error:
            self._problem = _here(error)
            return
        finally:
            ask("end", "load")
        self._problem = _difference(facts, Facts.of(encoder, task.decode))
        self._model = Model(encoder, task.decode)
        self._prepare = preparation(encoder, task.decode)
        self._known = known()

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Units, pickled, to groups, pickled."""
        for content in batch["unit"]:
            unit: Unit = pickle.loads(content)
            for group in self.groups(unit):
                yield {"group": [pickle.dumps(group)]}

    def groups(self, unit: Unit) -> Iterator[Group]:
        """The answers of a unit, as many at a time as make a batch."""
        if self._problem is not None:
            yield Group(unit.number, problem=self._problem)
            return
        careful = self._ask("begin", "unit", unit.number) > 1  # whoever had it died of it, perhaps
        clock = Clock()
        before = clock.read()
        done = 0
        answered = self._one_by_one(unit, clock) if careful else self._together(unit, clock)
        try:
            for answers in answered:
                now = clock.read()
                seconds = {what: now[what] - before[what] for what in now}
                before = now
                yield Group(unit.number, done, answers, seconds=seconds)
                done += len(answers)
        except OneCLIPError as error:  # a source that cannot be read on
            yield Group(unit.number, problem=_here(error))
            return
        except MemoryError:
            yield Group(
                unit.number, problem=_here("the memory is full; fewer workers, or a smaller batch, need less")
            )
            return
        yield Group(unit.number, done, is_last=True, not_read=dict(not_read([unit.found])))

    def _together(self, unit: Unit, clock: Clock) -> Iterator[list[Answer]]:
        size = self._model.batch(self._task.batch_size)
        source: Source = _Listed(unit.found) if isinstance(unit.found, Sequence) else unit.found
        entries: list[Ready | Unread | Failure] = []
        with closing(self._read([source], clock, 2 * size + 8)) as found:
            for entry in found:
                entries.append(entry)
                if len(entries) == size:
                    with clock.counting("model"):
                        answers = self._answers(entries)
                    yield answers
                    entries = []
        if entries:
            with clock.counting("model"):
                answers = self._answers(entries)
            yield answers

    def _one_by_one(self, unit: Unit, clock: Clock) -> Iterator[list[Answer]]:
        """The same with one item in hand, so that it shows which of them a worker dies of."""
        size = self._model.batch(self._task.batch_size)
        answers: list[Answer] = []
        for index, found in enumerate(unit.found):
            entry: Ready | Unread | Failure
            if self._ask("begin", "unit", unit.number, index) > ATTEMPTS and isinstance(found, Item):
                entry = Unread(found, f"{found.name}: the worker that had it in hand died, again and again")
            else:
                with closing(self._read([_Listed([found])], clock, 1)) as read:
                    entry = next(read)
            with clock.counting("model"):
                answers += self._answers([entry])
            self._ask("end", "unit", unit.number, index)
            if len(answers) == size:
                yield answers
                answers = []
        if answers:
            yield answers

    def _read(self, sources: Sequence[Source], clock: Clock, ahead: int) -> Any:
        return read_ahead(
            sources,
            self._prepare.decode,
            lambda item, digest: self._known.has(digest) or None,
            clock,
            ahead=ahead,
            decoders=self._task.threads,
            look=self._prepare.look,
            unchanged=lambda item, stamp: not self._task.verify and self._known.is_unchanged(item, stamp),
        )

    def _answers(self, entries: Sequence[Ready | Unread | Failure]) -> list[Answer]:
        ready = [entry for entry in entries if isinstance(entry, Ready) and not entry.is_known]
        found, new = self._model.begin_entries(ready)()
        answers = []
        for entry in entries:
            if isinstance(entry, Failure):
                answers.append(Answer(entry.name, None, reason=entry.reason, hides_others=entry.hides_others))
                continue
            item = entry.item
            if isinstance(entry, Unread):
                answers.append(Answer(item.name, item.key, entry.digest, reason=entry.reason))
            elif entry.is_known:
                answers.append(Answer(item.name, item.key, entry.digest, stamp=entry.stamp))
            else:
                value, is_new = found[entry.digest], entry.digest in new
                new.discard(entry.digest)
                answer = Answer(item.name, item.key, entry.digest, is_tried=True, stamp=entry.stamp)
                if isinstance(value, str):
                    answers.append(replace(answer, reason=value))
                else:
                    answers.append(replace(answer, vector=value, is_new=is_new))
        return answers


@dataclass
class _Listed:
    """Items that were listed, as a source."""

    found: Sequence[Found]
    name: str = ""
    is_bulky: bool = False

    def count(self) -> int | None:
        return len(self.found)

    def __iter__(self) -> Iterator[Found]:
        return iter(self.found)


def _load(task: Task) -> Encoder:
    import torch

    if task.version != __version__:
        raise OneCLIPError(f"oneclip {__version__} is installed, and {task.version} where the command runs")
    with suppress(OSError):  # where there is no such folder, relative paths lead nowhere, and are listed
        os.chdir(task.folder)
    torch.set_num_threads(task.threads)
    return task.load(device=task.device)


def _difference(expected: Facts, found: Facts) -> str | None:
    """Why a model that was loaded here is another one than elsewhere."""
    ours, theirs = found.to_dict(), expected.to_dict()
    different = [name for name in ours if name != "model" and ours[name] != theirs[name]]
    if not different:
        return None
    told = "; ".join(f"{name} {ours[name][:12]}, not {theirs[name][:12]}" for name in different)
    return _here(f"{found.model} is another model than on other machines: {told}")


def _here(error: object) -> str:
    return f"on {socket.gethostname()}: {error}"
