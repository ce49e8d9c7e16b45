"""Training data from a table of image paths and captions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oneclip.hub.addresses import is_address
from oneclip.hub.pairs import CaptionPairs, with_existing_images
from oneclip.train.data.dataset import SAME, PairDataset, Sample, fetch_image, stable_id


class TableDataset(PairDataset):
    """The rows of a table. Rows with the same image are not negatives of each other.

    Args:
        pairs: the rows; an image is a path, or an address that is downloaded each time it is read.
        folder: the folder that relative paths are relative to.
        skip_missing: leave out missing files and list them in `skipped`, instead of raising.
        by_image: combine the rows with the same image into one sample with several captions. Each epoch draws one.

    Raises:
        DataError: if files are missing.
    """

    def __init__(
        self, pairs: CaptionPairs, folder: str | Path, *, skip_missing: bool = False, by_image: bool = False
    ) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.pairs = with_existing_images(
            pairs, self.folder, self.skipped if skip_missing else None, is_elsewhere=is_address
        )
        self.left_out = len(pairs.incomplete)
        self.by_image = by_image
        rows: dict[str, list[int]] = {}
        if by_image:
            for row, image in enumerate(self.pairs.images):
                rows.setdefault(image, []).append(row)
        self._rows = list(rows.values())
        self._has_repeated_images = not by_image and len(set(self.pairs.images)) < len(self.pairs)
        self.extras = (SAME,) if self._has_repeated_images else ()

    def __len__(self) -> int:
        return len(self._rows) if self.by_image else len(self.pairs)

    def read(self, number: int) -> Sample:
        rows = self._rows[number] if self.by_image else [number]
        name = self.pairs.images[rows[0]]
        image = fetch_image(name) if is_address(name) else self.folder / name
        extra = {SAME: stable_id(name)} if self._has_repeated_images else {}
        return Sample(image, [self.pairs.captions[row] for row in rows], extra)

    def name(self, number: int) -> str:
        return self.pairs.images[self._rows[number][0] if self.by_image else number]

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        return {"data": self.pairs.checksum, "samples": len(self)}
