"""The soak test of the server in small: `benchmarks/soak.py` sends a hundred times as many requests."""

import asyncio
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import oneclip

pytest.importorskip("fastapi", reason="needs the extra oneclip[serve]")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import soak
from soaking.process import ServerProcess, serving

TIMEOUT = 2.0  # of the server in seconds
REQUESTS, HOSTILE_EVERY, CLIENTS, DIFFERENT = 130, 4, 8, 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example images."""
    return Path(shutil.copytree(soak.EXAMPLES, tmp_path_factory.mktemp("soak") / "images"))


@pytest.fixture(scope="module")
def server(images: Path) -> Iterator[ServerProcess]:
    """A server in a process of its own, with an index of the folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # other tests need the processors
        with serving(images, images.parent, "--timeout", str(TIMEOUT)) as server:
            yield server


def test_good_requests_are_answered_rightly_among_hostile_ones(
    server: ServerProcess, images: Path, encoder: oneclip.Encoder
) -> None:
    traffic, tally = soak.prepare(server, encoder, images, DIFFERENT, TIMEOUT), soak.Tally()
    asyncio.run(traffic.send(range(REQUESTS), tally, clients=CLIENTS, hostile_every=HOSTILE_EVERY))
    assert tally.faults + soak.remaining_faults(server) == []
    missing = {*traffic.good.kinds, *traffic.hostile.kinds, soak.HEALTH} - set(tally.statuses)
    assert not missing
