"""The greatest errors that the tests of a session met, for its last lines; also those of tests in other processes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

PUBLISHED = "greatest relative errors against the published packages"
TOGETHER = "greatest relative differences of several processes from one"
KEY = "greatest errors"

_seen: dict[str, dict[str, float]] = defaultdict(dict)


def note(section: str, group: str, error: float) -> None:
    """Keep an error, if it is the greatest of its group."""
    _seen[section][group] = max(_seen[section].get(group, 0.0), error)


class Summary:
    """Hooks of pytest, and of xdist, whose processes tell the one that prints."""

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[KEY] = {section: dict(groups) for section, groups in _seen.items()}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        for section, groups in getattr(node, "workeroutput", {}).get(KEY, {}).items():
            for group, greatest in groups.items():
                note(section, group, greatest)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for section, groups in sorted(_seen.items()):
            terminalreporter.section(section)
            for group, error in sorted(groups.items()):
                terminalreporter.write_line(f"{group:60} {error:.1e}")
