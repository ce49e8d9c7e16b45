"""Summary of the largest errors found by the tests of a session, in all xdist workers."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

PUBLISHED = "largest relative errors against the published packages"
TOGETHER = "largest relative differences between several processes and one"
KEY = "greatest errors"

_seen: dict[str, dict[str, float]] = defaultdict(dict)


def note(section: str, group: str, error: float) -> None:
    """Record an error, if it is the largest of its group."""
    _seen[section][group] = max(_seen[section].get(group, 0.0), error)


class Summary:
    """Hooks of pytest and xdist: workers send their errors to the main process, which prints them."""

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
