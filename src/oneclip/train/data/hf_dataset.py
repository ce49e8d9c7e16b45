"""Training data from Hugging Face datasets on disk: folders of `save_to_disk`, and Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from oneclip.errors import DataError
from oneclip.hub.addresses import is_address
from oneclip.hub.dataset_rows import CAPTION_COLUMNS, IMAGE_COLUMNS, choose_column, open_rows
from oneclip.train.data.dataset import PairDataset, Sample, fetch_image


class HFDataset(PairDataset):
    """The rows of a dataset that the package `datasets` has written.

    Args:
        place: a folder of `save_to_disk`, a folder with Parquet files (at any depth), or one Parquet file.
        split: one of several splits; "train" by default. Required if there are several and none is called "train".
        image_column: images as `datasets` stores them, bytes, paths (relative to the folder) or addresses.
        caption_column: captions; a list has several captions of one image. By default both columns are detected by
            their usual names.

    Raises:
        DataError: if the dataset, the split or a column is missing, or the dataset has no rows.
        MissingExtraError: without pyarrow.
    """

    def __init__(
        self,
        place: str | Path,
        *,
        split: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
    ) -> None:
        super().__init__()
        self.place = Path(place)
        self.folder = self.place if self.place.is_dir() else self.place.parent
        self._rows = open_rows(self.place, split)
        if not len(self):
            raise DataError(f"the dataset {place} has no rows; expected at least one")
        names = self._rows.names
        self.image_column = choose_column(
            image_column, IMAGE_COLUMNS, names, f"images of {place}", "image_column"
        )
        self.caption_column = choose_column(
            caption_column, CAPTION_COLUMNS, names, f"captions of {place}", "caption_column"
        )
        self.block_size = self._rows.block_size

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, number: int) -> Sample:
        image, captions = self._rows.read(number, (self.image_column, self.caption_column))
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and image:
            image = fetch_image(image) if is_address(image) else self.folder / image
        if not image:
            raise DataError(f"column {self.image_column!r} is empty in this row")
        if not isinstance(image, (bytes, Path)):
            raise DataError(
                f"column {self.image_column!r} contains {type(image).__name__}; expected an image, bytes or a path"
            )
        values = captions if isinstance(captions, list) else [captions]
        return Sample(image, [value for value in values if isinstance(value, str)])

    def name(self, number: int) -> str:
        return f"{self.place}:{number + 1}"

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        columns = f"{self.image_column} {self.caption_column}"
        return {"data": f"{self._rows.digest} {columns}", "samples": len(self)}
