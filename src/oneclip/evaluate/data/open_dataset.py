"""Open a data set from a path, an address or a name."""

from __future__ import annotations

import os
from collections.abc import Sequence

from oneclip.evaluate.data.dataset import EvaluationDataset, Templates


def open_dataset(
    source: str | os.PathLike[str],
    *,
    split: str | None = None,
    classes: Sequence[str] | str | os.PathLike[str] | None = None,
    templates: Templates | str | None = None,
    images: str | os.PathLike[str] | None = None,
    image_column: str = "filepath",
    caption_column: str = "caption",
    group_column: str | None = None,
    separator: str | None = None,
    skip_missing: bool = False,
    language: str = "en",
) -> EvaluationDataset:
    """Open a data set."""
    raise NotImplementedError
