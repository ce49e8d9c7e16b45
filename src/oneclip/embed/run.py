"""Sources to vectors on disk: what `oneclip embed` does, for programs.

    with Store(Path("vectors.npz"), Facts.of(encoder, "exact")) as store:
        outcome = embed(encoder, find_sources(["photos"]), store, decode="exact")

Two steps make the work: `prepare` turns the bytes of an item into what the model takes, in threads, and `Model`
turns a batch of those into vectors. Both hold nothing of the rest, so that they can also run elsewhere.
"""

from __future__ import annotations

import io
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from oneclip.embed.ahead import Clock, Ready, Unread, read_ahead
from oneclip.embed.cache import Cache
from oneclip.embed.errors_table import ErrorTable
from oneclip.embed.items import Failure, Item, Source
from oneclip.embed.meter import Meter, Report
from oneclip.embed.store import Store
from oneclip.encoder.feed import Feed
from oneclip.errors import CheckpointError, ConfigError, OutputError, TextError
from oneclip.image import open_image

if TYPE_CHECKING:
    from oneclip.encoder import Encoder, Features

Decode = Literal["exact", "fast", "text", "cut"]
RECENT_BYTES = 64 << 20  # of vectors whose content may come again: what is equal is computed once
CAPTIONS_AT_ONCE = 2048  # to be sorted by length before they become batches


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        encoded: items that went through the model.
        kept: items whose vector was there from an earlier run.
        repeated: items whose content another one had, or the cache.
        failed: items and sources without a vector; all are in the table `errors`.
        first_failures: some of them.
        rows: of the output in the end.
        errors: where the table is; it exists if `failed` is not 0.
    """

    encoded: int = 0
    kept: int = 0
    repeated: int = 0
    failed: int = 0
    first_failures: list[Failure] = field(default_factory=list)
    rows: int = 0
    errors: str | None = None

    @property
    def done(self) -> int:
        """Items that have a vector now."""
        return self.encoded + self.kept + self.repeated


def embed(
    encoder: Encoder,
    sources: Sequence[Source],
    store: Store,
    *,
    decode: Decode = "exact",
    batch_size: int = 32,
    cache: Cache | None = None,
    report: Callable[[Report], None] = lambda report: None,
    outcome: Outcome | None = None,
) -> Outcome:
    """Encode what sources hold, into a store that has been entered.

    Args:
        encoder: the model.
        sources: see `find_sources`.
        store: where vectors go, and where those of earlier runs are.
        decode: of pictures "exact" or "fast"; of captions "text", or "cut" to shorten what is too long.
        batch_size: pictures that go through the model at once.
        cache: vectors by content, of any earlier run.
        report: is told how far it is, at most twice a second.
        outcome: counts here, so that the caller has them also when this raises.

    Raises:
        CheckpointError: if the model gives no finite numbers for a whole first batch.
        DataError: if a source cannot be read on.
        OutputError: if the disk refuses; what was written is kept.
    """
    run = _Run(encoder, store, Model(encoder, decode), cache, outcome or Outcome())
    totals = [source.count() for source in sources]
    clock = Clock()
    meter = Meter(clock, None if None in totals else sum(t for t in totals if t is not None), report)
    size = batch_size if run.model.sees else max(batch_size, CAPTIONS_AT_ONCE)
    seen: set[str] = set()
    names: list[str] = []
    pending: list[Ready] = []
    with store.error_table() as errors:
        run.errors = errors
        found = read_ahead(sources, preparation(encoder, decode), run.known, clock, ahead=2 * size + 8)
        try:
            for entry in found:
                meter.advance()
                if isinstance(entry, Failure):
                    errors.add(entry)
                    continue
                if entry.item.identity in seen:
                    continue
                seen.add(entry.item.identity)
                names.append(entry.item.name)
                if isinstance(entry, Unread):
                    run.fail(entry)
                elif entry.is_known:
                    run.take_known(entry)
                elif (reason := store.fault(entry.item.name)) is not None:
                    run.fail(Unread(entry.item, reason))
                else:
                    pending.append(entry)
                    if len(pending) == size:
                        with clock.counting("model"):
                            run.encode(pending)
                        pending = []
            with clock.counting("model"):
                run.encode(pending)
                run.encode([])
        except BaseException:
            with suppress(OutputError):  # what ends the run may be just that
                store.flush()
            raise
        finally:
            outcome = run.outcome
            outcome.failed, outcome.first_failures = errors.count, errors.first
            outcome.errors = errors.place if errors.count else None
            found.close()
        outcome.rows = store.finish(names)
    return outcome


def preparation(encoder: Encoder, decode: Decode) -> Callable[[io.BytesIO], Any]:
    """What turns the bytes of an item into what the model takes: a tensor (3, H, W), or a caption."""
    if decode in ("text", "cut"):
        return _caption
    if decode not in ("exact", "fast"):
        raise ConfigError(f"decode is {decode!r} and must be 'exact' or 'fast', of captions 'text' or 'cut'")
    preprocess = Feed(encoder, decode).preprocess
    least, limit = getattr(preprocess, "least", None), encoder.max_pixels
    return lambda content: preprocess(open_image(content, max_pixels=limit, least=least))


class Model:
    """A batch of prepared items to vectors, one by one where the batch has something that spoils it.

    Args:
        encoder: the model.
        decode: as of `embed`.
    """

    def __init__(self, encoder: Encoder, decode: Decode) -> None:
        self._encoder = encoder
        self.sees = decode in ("exact", "fast")
        self._feed = Feed(encoder, decode if self.sees else "exact")
        self.ahead = self._feed.ahead if self.sees else 0  # batches that may be begun before one is asked for
        self._overflow: Literal["error", "truncate"] = "truncate" if decode == "cut" else "error"

    def encode(self, values: Sequence[Any]) -> list[Features | str]:
        """Vectors (D,) of unit length; for what has none, the reason.

        Raises:
            CheckpointError: never for single items.
        """
        return self.begin(values)()

    def begin(self, values: Sequence[Any]) -> Callable[[], list[Features | str]]:
        """`encode`, to be asked for later: a GPU computes meanwhile."""
        try:
            begun = self._begin(values) if values else list
        except (CheckpointError, TextError):
            return lambda: [self._alone(value) for value in values]

        def finish() -> list[Features | str]:
            try:
                return list(begun())
            except CheckpointError:
                return [self._alone(value) for value in values]

        return finish

    def _alone(self, value: Any) -> Features | str:
        try:
            (vector,) = self._begin([value])()
        except (CheckpointError, TextError) as error:
            return str(error)
        return vector

    def _begin(self, values: Sequence[Any]) -> Callable[[], Iterable[Features]]:
        if self.sees:
            return self._feed.pictures(values)
        features = self._encoder.encode_texts(list(values), overflow=self._overflow)
        return lambda: features


class _Run:
    """What happens to the items of one run."""

    errors: ErrorTable

    def __init__(
        self, encoder: Encoder, store: Store, model: Model, cache: Cache | None, outcome: Outcome
    ) -> None:
        self.encoder, self.store, self.model, self.cache, self.outcome = encoder, store, model, cache, outcome
        self._recent: OrderedDict[str, Features] = OrderedDict()
        self._remembered = max(1, RECENT_BYTES // (4 * encoder.embed_dim))
        self._begun: deque[Callable[[], None]] = deque()

    def known(self, item: Item, digest: str) -> Any:
        """True for an item of an earlier run, a vector from the cache, or None. Called in threads."""
        if self.store.has(item.name, digest):
            return True
        return self.cache.find(digest) if self.cache is not None else None

    def take_known(self, entry: Ready) -> None:
        """Count what is in the store; what is in the cache alone goes there."""
        if entry.value is True:
            self.outcome.kept += 1
        elif (reason := self.store.fault(entry.item.name)) is not None:
            self.fail(Unread(entry.item, reason))
        else:
            self.outcome.repeated += 1
            self.store.add(entry.item.name, entry.digest, entry.value)

    def fail(self, entry: Unread) -> None:
        """Write down why there is no vector; one of other content, of an earlier run, is none either."""
        self.errors.add(Failure(entry.item.name, entry.reason))
        if entry.digest is not None:
            self.store.forget(entry.item.name)

    def encode(self, entries: Sequence[Ready]) -> None:
        """Begin to make the vectors of a batch, and store those that are asked for now: all, after an empty one."""
        if entries:
            self._begun.append(self._begin(entries))
        while len(self._begun) > (self.model.ahead if entries else 0):
            self._begun.popleft()()

    def _begin(self, entries: Sequence[Ready]) -> Callable[[], None]:
        """Of equal contents one."""
        known = {e.digest: self._recent[e.digest] for e in entries if e.digest in self._recent}
        new = list({e.digest: e for e in entries if e.digest not in known}.values())
        begun = self.model.begin([e.value for e in new])

        def finish() -> None:
            made = dict(zip((e.digest for e in new), begun(), strict=True))
            self._store(entries, known, made)

        return finish

    def _store(
        self, entries: Sequence[Ready], known: dict[str, Features], made: dict[str, Features | str]
    ) -> None:
        reasons = {digest: value for digest, value in made.items() if isinstance(value, str)}
        vectors = {digest: value for digest, value in made.items() if not isinstance(value, str)}
        if self.model.sees and made and not vectors and not self.outcome.done and len(made) > 1:
            raise CheckpointError(next(iter(reasons.values())))  # it is the model, not the pictures
        for entry in entries:
            if entry.digest in reasons:
                self.fail(Unread(entry.item, reasons[entry.digest], entry.digest))
            else:
                vector = known.get(entry.digest, vectors.get(entry.digest))
                assert vector is not None
                self.store.add(entry.item.name, entry.digest, vector)
        self.outcome.encoded += len(vectors)
        self.outcome.repeated += sum(e.digest not in reasons for e in entries) - len(vectors)
        if self.cache is not None and vectors:
            self.cache.add(vectors)
        self._recent.update(vectors)
        while len(self._recent) > self._remembered:
            self._recent.popitem(last=False)


def _caption(content: io.BytesIO) -> str:
    try:
        text = content.getvalue().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise TextError(f"no text in UTF-8: {error}") from error
    if not text:
        raise TextError("an empty caption")
    return text
