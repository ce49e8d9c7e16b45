"""Published suites of data sets, and suites of one's own in TOML files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SuiteEntry:
    """Data set of a suite.

    Attributes:
        name: as CLIP_benchmark writes it, such as "wds/vtab/cifar100".
        source: what `open_dataset` opens.
        task: "auto", or the task that the suite asks for.
        options: of `open_dataset`.
    """

    name: str
    source: str
    task: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)


SUITES: dict[str, Sequence[SuiteEntry]] = {}


def open_suite(name: str, root: str | None = None) -> list[SuiteEntry]:
    """List the data sets of a suite."""
    raise NotImplementedError
