"""Fixtures of the tests of the server: its application in this process, and the encoder to compare with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import oneclip

pytest.importorskip("fastapi", reason="needs the extra oneclip[serve]")

from starlette.testclient import TestClient

from oneclip.serve.app import create_app
from oneclip.serve.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

EXAMPLES = Path(__file__).parents[2] / "examples" / "images"


@pytest.fixture(scope="session")
def encoder() -> oneclip.Encoder:
    """Load the model that the application serves, as what its answers are compared with."""
    return oneclip.load("pocket")


@pytest.fixture(scope="session")
def images() -> dict[str, bytes]:
    """Return the bytes of the example images by name without ending: "apple", "car", "cat", and so on."""
    return {path.stem: path.read_bytes() for path in sorted(EXAMPLES.glob("*.png"))}


@pytest.fixture(scope="module")
def app() -> "FastAPI":
    """Make the application with its default settings."""
    return create_app(ServeSettings())


@pytest.fixture(scope="module")
def client(app: "FastAPI") -> Iterator[TestClient]:
    """Start the application, and provide a client of it."""
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client
