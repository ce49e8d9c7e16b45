"""Several kinds of samples to one: end to end, or by weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from oneclip.errors import ConfigError
from oneclip.train.data.sampler import Part
from oneclip.train.data.samples import Sample, Samples


class Mixture(Samples):
    """Samples of several sources.

    Without weights each sample comes once an epoch. With them a source has its share of every batch, whatever its
    size: its own samples come once each before any comes again, and an epoch is as many samples as all sources have.

    Args:
        sources: no mixtures with weights among them.
        weights: a number above 0 for each; only their ratios count.
        names: of the sources, for messages.
    """

    def __init__(
        self,
        sources: Sequence[Samples],
        weights: Sequence[float] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if not sources or (weights is not None and len(weights) != len(sources)):
            given = "none" if weights is None else str(len(weights))
            raise ConfigError(f"a mixture of {len(sources)} sources got {given} weights; expected one each")
        if any(isinstance(source, Mixture) and source.weights is not None for source in sources):
            raise ConfigError("a mixture with weights cannot be part of another; give all sources to one")
        self.sources = tuple(sources)
        self.weights: tuple[float, ...] | None = tuple(weights) if weights is not None else None
        self.names = tuple(names) if names is not None else tuple(f"source {i}" for i in range(len(sources)))
        self._starts = np.cumsum([0, *(len(source) for source in sources)])
        self.run = max(source.run for source in sources)
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

    def read_run(self, numbers: Sequence[int]) -> list[Sample | Exception]:
        found: dict[int, Sample | Exception] = {}
        which = np.searchsorted(self._starts, numbers, side="right") - 1
        for index in np.unique(which).tolist():
            own = [number for number, its in zip(numbers, which, strict=True) if its == index]
            inside = [number - int(self._starts[index]) for number in own]
            found |= zip(own, self.sources[index].read_run(inside), strict=True)
        return [found[number] for number in numbers]

    def name(self, number: int) -> str:
        source, inside = self._find(number)
        return source.name(inside)

    @property
    def identity(self) -> Mapping[str, str | int | float]:
        own = {f"{key}_{i}": v for i, source in enumerate(self.sources) for key, v in source.identity.items()}
        return own | {f"weight_{i}": weight for i, weight in enumerate(self.weights or ())}

    def parts_of(self, run: int) -> list[Part]:
        """The sources as parts of an order by weight, with runs of at most `run`."""
        starts = self._starts.tolist()
        rows = zip(self.names, starts, self.sources, self.weights or (), strict=False)
        return [
            Part(name, start, len(source), min(run, source.run), weight)
            for name, start, source, weight in rows
        ]

    def _find(self, number: int) -> tuple[Samples, int]:
        index = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.sources[index], number - int(self._starts[index])
