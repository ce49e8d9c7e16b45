"""The tests of open_clip_torch 3.3.0, run on our `open_clip`."""

from __future__ import annotations

import os
from pathlib import Path

import install
import pytest

import open_clip
from tests import programs

HERE = Path(__file__).resolve().parent
PROGRAM = """
import sys, pytest
sys.dont_write_bytecode = True
from torchvision_stub import declare_operators
declare_operators()
sys.exit(pytest.main(sys.argv[1:]))
"""
QUICK = "poolers or num_shards or (download_pretrained and not hfh)"
"""Tests that need no download and take seconds. The others train or build large models."""


def test_published_tests_import_and_those_that_fetch_nothing_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (install.installed() and install.installed(install.PUBLISHED_TESTS)):
        pytest.skip("the published tests are not here: python tests/parity/install.py")
    source = Path(open_clip.__file__).resolve().parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (source, install.PACKAGES, HERE.parent)))
    options = ["-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "-q", "-k", QUICK, "."]
    monkeypatch.chdir(install.PUBLISHED_TESTS)
    done = programs.run(["-c", PROGRAM, *options], environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "15 passed" in done.stdout, done.stdout
