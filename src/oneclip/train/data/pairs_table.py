"""A table of pairs and a folder of pictures to samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oneclip.hub.addresses import is_address
from oneclip.hub.pairs import Pairs, present_pairs
from oneclip.train.data.samples import SAME, Sample, Samples, fetched, number_of


class TableSamples(Samples):
    """The rows of a table. Several rows of one picture are no negatives of each other.

    Args:
        pairs: the rows; a picture is a path, or an address that it is fetched from each time.
        folder: what relative paths are relative to.
        skip_missing: leave files that are not there out (they are then in `skipped`), instead of raising.
        by_picture: make the rows of one picture one sample with several captions, of which each epoch draws one.

    Raises:
        DataError: if files are missing.
    """

    def __init__(
        self, pairs: Pairs, folder: str | Path, *, skip_missing: bool = False, by_picture: bool = False
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.pairs = present_pairs(
            pairs, self.folder, self.skipped if skip_missing else None, is_elsewhere=is_address
        )
        self.left_out = len(pairs.left_out)
        self.by_picture = by_picture
        rows: dict[str, list[int]] = {}
        if by_picture:
            for row, picture in enumerate(self.pairs.pictures):
                rows.setdefault(picture, []).append(row)
        self._rows = list(rows.values())
        self._is_several = not by_picture and len(set(self.pairs.pictures)) < len(self.pairs)
        self.extras = (SAME,) if self._is_several else ()

    def __len__(self) -> int:
        return len(self._rows) if self.by_picture else len(self.pairs)

    def read(self, number: int) -> Sample:
        rows = self._rows[number] if self.by_picture else [number]
        name = self.pairs.pictures[rows[0]]
        picture = fetched(name) if is_address(name) else self.folder / name
        extra = {SAME: number_of(name)} if self._is_several else {}
        return Sample(picture, [self.pairs.captions[row] for row in rows], extra)

    def name(self, number: int) -> str:
        return self.pairs.pictures[self._rows[number][0] if self.by_picture else number]

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        return {"data": self.pairs.checksum, "samples": len(self)}
