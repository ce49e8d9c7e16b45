"""An index of images: update it from folders, and search it by words and by images.

    index = oneclip.Index("photos.index", model="pocket")
    index.update("Photos")
    index.search("a red car", top_k=20)

Importing this module does not import torch; nor does an update that finds nothing new.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from oneclip.embed.items import Failure
from oneclip.embed.rows import Decode, EmbeddingMetadata
from oneclip.errors import ConfigError, DataError, OutputError
from oneclip.hub.atomic import try_file_lock
from oneclip.search import maintenance
from oneclip.search.catalogue import FILE, Catalogue
from oneclip.search.places import index_for_root
from oneclip.search.query import check_search, encode_queries, parse_queries, require_same_model
from oneclip.search.ranking import FileSelection, no_images_message, rank
from oneclip.search.relevance import RelevanceModel
from oneclip.search.results import Entry, IndexStatus, SearchResults, UpdateResult, VerifyResult
from oneclip.search.snapshot import MAX_ATTEMPTS, Snapshot, open_snapshot

if TYPE_CHECKING:
    from oneclip.embed.throughput import EmbedProgress
    from oneclip.encoding import BaseEncoder
    from oneclip.search.duplicates import DuplicateGroup

LOCK = ".lock"
SEGMENTS = "segments"
RELEVANCE = "relevance.npz"
STAMP = "weights"  # key of the stamp of the weights' files whose digest is in the metadata
DEFAULT_MODEL = "pocket"


class Index:
    """Embeddings of the images in one or several folders, with what is known of each image.

    Any number of processes and threads may search an index while one updates it; a search sees one state of it
    throughout.

    Args:
        path: folder of the index; created if it does not exist.
        model: name or path of a model as in `oneclip.load`, or a loaded `Encoder`; None for the model of the index,
            or "pocket" for a new one.
        device: of the model, see `oneclip.load`.
        precision: of the model; None for that of the index, or "fp32" for a new one.
        decode: "exact", or "fast" to shrink large JPEGs while they are decoded; None for that of the index.
        create: whether to create a missing index.

    Raises:
        DataError: if the folder contains something else, a damaged index, or one of a newer version.
        OutputError: if it cannot be created.
        ConfigError: if `model` is none of these; at the first use of the model, if another one made the index.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | BaseEncoder | None = None,
        device: str | None = None,
        precision: str | None = None,
        decode: Literal["exact", "fast"] | None = None,
        create: bool = True,
    ) -> None:
        if not os.fspath(path):
            raise ConfigError("the path of the index is empty; choose a new folder, such as photos.index")
        if isinstance(model, os.PathLike):
            model = os.fspath(model)
        if not (model is None or isinstance(model, str) or hasattr(model, "embed_dim")):
            raise ConfigError(f"model is {model!r}; expected the name of a model, or a loaded Encoder")
        self.path = Path(path).expanduser().absolute()
        if create:
            _make_folder(self.path)
        self.catalogue = Catalogue(self.path, create=create)
        self._given, self._device, self._precision, self._decode = model, device, precision, decode
        self._snapshot: Snapshot | None = None
        self._stamp: dict[str, Any] | None = None  # of the weights, if they were loaded by name

    @classmethod
    def for_root(cls, root: str | os.PathLike[str], **options: Any) -> Index:
        """Open or create the index of a folder in the user's data folder; `options` as of the class."""
        return cls(index_for_root(root), **options)

    def close(self) -> None:
        """Close the index; nothing is lost if this is not called."""
        self.catalogue.close()
        self._snapshot = None

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Index {self.path}>"

    # ---------------------------------------------------------------------------------------------------- the model

    @property
    def model_name(self) -> str:
        """Name of the model."""
        if self.metadata is not None:
            return self.metadata.model
        given = self._given if self._given is not None else DEFAULT_MODEL
        return given if isinstance(given, str) else given.name

    @property
    def metadata(self) -> EmbeddingMetadata | None:
        """The settings that made the embeddings; None for an index that was never updated."""
        values = self.catalogue.info("metadata")
        return None if values is None else EmbeddingMetadata.from_dict(values)

    @property
    def decode(self) -> Decode:
        """How images are decoded, "exact" or "fast"."""
        metadata = self.metadata
        decode = self._decode or (metadata.decode if metadata is not None else "exact")
        if decode not in ("exact", "fast"):
            raise ConfigError(f"decode is {decode!r}; expected 'exact' or 'fast'")
        return "fast" if decode == "fast" else "exact"

    @cached_property
    def encoder(self) -> BaseEncoder:
        """The model, loaded at the first use.

        Raises:
            ConfigError: if another model made the index.
        """
        found = self.metadata
        given = self._given if self._given is not None else self.catalogue.info("model") or DEFAULT_MODEL
        if isinstance(given, str):
            import oneclip
            from oneclip.search.weights_stamp import weights_stamp

            precision = self._precision or (found.precision if found is not None else None)
            stamp = weights_stamp(given, precision or "fp32")
            encoder: BaseEncoder = oneclip.load(given, device=self._device, precision=precision)
            if stamp == weights_stamp(given, precision or "fp32"):
                self._stamp = stamp
        else:
            encoder = given
        if found is not None:
            is_known = self._stamp is not None and self._stamp == self.catalogue.info(STAMP)
            roots = " ".join(self.catalogue.roots()) or "ROOT"
            require_same_model(
                f"the index {self.path}",
                found,
                EmbeddingMetadata.for_encoder(
                    encoder, self.decode, weights=found.weights if is_known else None
                ),
                f"make the index again: oneclip index {roots} --index {self.path} --model {encoder.name} --rebuild",
            )
            if self._stamp is not None and not is_known and not self.catalogue.is_read_only:
                with suppress(OutputError), self.catalogue.transaction():
                    self.catalogue.set_info({STAMP: self._stamp})
        return encoder

    @cached_property
    def relevance(self) -> RelevanceModel:
        """Converts cosines to probabilities."""
        return RelevanceModel.load(self.path / RELEVANCE)

    @property
    def segments(self) -> Path:
        """Folder of the segments."""
        return self.path / SEGMENTS

    def record_model(self) -> None:
        """Record what makes the embeddings of a new index: the model, its settings, and its relevance."""
        if self.metadata is not None:
            return
        self.segments.mkdir(exist_ok=True)
        RelevanceModel.from_encoder(self.encoder).save(self.path / RELEVANCE)
        given = self._given if self._given is not None else DEFAULT_MODEL
        name = given if isinstance(given, str) else given.name
        with self.catalogue.transaction():
            self.catalogue.set_info(
                {
                    "model": os.path.abspath(name) if os.path.exists(name) else name,
                    "metadata": EmbeddingMetadata.for_encoder(self.encoder, self.decode).to_dict(),
                    STAMP: self._stamp,
                }
            )

    # ------------------------------------------------------------------------------------------------------ updating

    def update(
        self,
        *roots: str | os.PathLike[str],
        under: str = "",
        exclude: Sequence[str] | None = None,
        prune: bool = False,
        batch_size: int = 32,
        report: Callable[[EmbedProgress], None] = lambda progress: None,
    ) -> UpdateResult:
        """Bring the index up to date with folders. Files that have not changed in size or time are not read.

        What is done is kept if the update is interrupted. Nothing is removed because a folder is missing, empty or
        unreadable: the disk may not be mounted.

        Args:
            roots: folders of images; by default those of the index.
            under: folder inside the one root to look at, relative to it; by default all of it.
            exclude: patterns of files and folders to leave out, also in later updates; None for those of before.
            prune: remove the images of folders that are missing, empty or unreadable, too.
            batch_size: images in a batch.
            report: called with the progress, at most twice a second.

        Raises:
            OutputError: if another process updates the index, or it cannot be written.
            DataError: if there is no root.
        """
        from oneclip.search.updating import update_index

        with self.writing():
            return update_index(self, roots, under, exclude, prune, batch_size, report)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Exclude other writers.

        Raises:
            OutputError: if another process writes to the index, or it is read-only.
        """
        if self.catalogue.is_read_only:
            raise OutputError(f"{self.path} cannot be written: it is read-only; search it with --no-update")
        lock = try_file_lock(self.path / LOCK)
        if lock is None:
            raise OutputError(
                f"another process is updating {self.path}; wait for it, or search with --no-update meanwhile"
            )
        try:
            yield
        finally:
            lock.release()

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
    ) -> SearchResults:
        """Find the images that fit all queries best.

        Args:
            queries: words; paths of images; images. `2:beach` gives "beach" the weight 2.
            like: an image that the results should look like, or several.
            exclude: words or images that should not be there.
            where: a filter, see `oneclip.search.where`: `taken_at >= 2023-05 and camera ~ 'Pixel'`.
            top_k: number of files to return.
            sort: order of the results: best first, or newest first.
            min_relevance: leave out results with a lower relevance, between 0 and 1; `hidden` counts them.
            distinct: leave out results that look like a better one; `repeated` counts them.
            under: only files in this folder.

        Raises:
            TextError, ImageError: for a query that cannot be encoded.
            ConfigError: for a filter that is not valid, or if another model made the index.
            DataError: for an index without images.
        """
        parsed = parse_queries(queries, like, exclude)
        check_search(parsed, top_k=top_k, sort=sort, min_relevance=min_relevance)
        selection = FileSelection(self.catalogue, where, under)
        if self.metadata is None:
            raise DataError(no_images_message(self.path))
        vectors = encode_queries(self.encoder, parsed)
        for _ in range(MAX_ATTEMPTS):
            snapshot = self.snapshot()
            results = rank(
                snapshot,
                selection,
                parsed,
                vectors,
                self.relevance,
                SearchResults([], str(self.path), self.model_name),
                top_k=top_k,
                sort=sort,
                min_relevance=min_relevance,
                distinct=distinct,
            )
            # else the embeddings and the files may be of two states
            if self.catalogue.generation() == snapshot.generation:
                break
        return results

    def snapshot(self) -> Snapshot:
        """Return the present state of the index. Thread-safe."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.generation != self.catalogue.generation():
            snapshot = self._snapshot = open_snapshot(self.catalogue, self.segments)
        return snapshot

    def entries(self, where: str | None = None, under: str | os.PathLike[str] | None = None) -> list[Entry]:
        """Return the image files of the index, ordered by root and path; `where` and `under` as of `search`."""
        return FileSelection(self.catalogue, where, under).entries()

    def duplicates(self, near: float = 0.96) -> list[DuplicateGroup]:
        """Find groups of equal and nearly equal images, see `oneclip.search.duplicates.find_duplicates`."""
        from oneclip.search.duplicates import find_duplicates

        return find_duplicates(self, near)

    # --------------------------------------------------------------------------------------------------- maintenance

    def status(self) -> IndexStatus:
        """Return counts, size and settings of the index."""
        return maintenance.status(self)

    def failures(self) -> list[Failure]:
        """Return the files without an embedding, with the reasons."""
        return maintenance.failures(self.catalogue)

    def verify(self, *, content: bool = True) -> VerifyResult:
        """Compare the index with the files, and check its own files for damage.

        What differs is encoded again at the next update.

        Args:
            content: read all files and compare their contents too, not only whether they exist.

        Raises:
            OutputError: if another process writes to the index, or it is read-only.
        """
        with self.writing():
            return maintenance.verify(self, content=content)

    def compact(self) -> int:
        """Remove the embeddings of files that no longer exist, and merge small segments.

        Returns:
            The number of removed embeddings.

        Raises:
            OutputError: if another process writes to the index, or the disk is full.
        """
        with self.writing():
            return maintenance.compact(self, always=True)


def _make_folder(path: Path) -> None:
    """Create the folder of an index; refuse one that contains something else."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        names = {entry.name for entry in os.scandir(path)}
    except (OSError, ValueError) as error:  # a ValueError for a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{path} cannot be used for an index: {reason}") from error
    if names and FILE not in names and not names <= {LOCK, SEGMENTS}:
        raise DataError(
            f"{path} is not an index: it contains {min(names)}. An index is a folder of its own; "
            "choose a new one, such as photos.index"
        )
