"""Several datasets combined into one: concatenated, or mixed by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from oneclip.errors import ConfigError
from oneclip.train.data.dataset import PairDataset, Sample
from oneclip.train.data.sampler import SourceRange


class MixtureDataset(PairDataset):
    """Samples of several datasets.

    Without weights, every sample is used once per epoch. With weights, each source has its fixed share of every
    batch, whatever its size: a source uses all of its samples before it repeats one, and an epoch is as many samples
    as all sources have in total.

    Args:
        sources: datasets; none of them may itself be a mixture with weights.
        weights: one number above 0 per source; only their ratios matter.
        names: of the sources, for messages.
    """

    def __init__(
        self,
        sources: Sequence[PairDataset],
        weights: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not sources or (weights is not None and len(weights) != len(sources)):
            given = "no" if weights is None else str(len(weights))
            raise ConfigError(
                f"a mixture of {len(sources)} sources has {given} weights; expected one per source"
            )
        if any(isinstance(source, MixtureDataset) and source.weights is not None for source in sources):
            raise ConfigError(
                "a mixture with weights cannot be part of another mixture; put all sources into one"
            )
        self.sources = tuple(sources)
        self.weights: tuple[float, ...] | None = tuple(weights) if weights is not None else None
        self.names = tuple(names) if names is not None else tuple(f"source {i}" for i in range(len(sources)))
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self.block_size = max(source.block_size for source in sources)
        self.extras = tuple(dict.fromkeys(name for source in sources for name in source.extras))
        self.left_out = sum(source.left_out for source in sources)
        for source in sources:
            self.skipped |= source.skipped
            self.not_read.update(source.not_read)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, number: int) -> Sample:
        source, inside = self._find(number)
        return source.read(inside)

    def read_many(self, numbers: Sequence[int]) -> list[Sample | Exception]:
        found: dict[int, Sample | Exception] = {}
        source_indices = np.searchsorted(self._starts, numbers, side="right") - 1
        for index in np.unique(source_indices).tolist():
            own = [number for number, i in zip(numbers, source_indices, strict=True) if i == index]
            inside = [number - int(self._starts[index]) for number in own]
            found |= zip(own, self.sources[index].read_many(inside), strict=True)
        return [found[number] for number in numbers]

    def name(self, number: int) -> str:
        source, inside = self._find(number)
        return source.name(inside)

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        own = {f"{key}_{i}": v for i, source in enumerate(self.sources) for key, v in source.identity.items()}
        return own | {f"weight_{i}": weight for i, weight in enumerate(self.weights or ())}

    def source_ranges(self, block_size: int) -> list[SourceRange]:
        """Return the range of each source for a weighted sampler, with blocks of at most `block_size` samples."""
        starts = self._starts.tolist()
        rows = zip(self.names, starts, self.sources, self.weights or (), strict=False)
        return [
            SourceRange(name, start, len(source), min(block_size, source.block_size), weight)
            for name, start, source, weight in rows
        ]

    def _find(self, number: int) -> tuple[PairDataset, int]:
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.sources[index], number - int(self._starts[index])
