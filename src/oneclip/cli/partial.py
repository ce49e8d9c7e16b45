"""What an unfinished `oneclip embed` leaves beside its output, so that the same command can go on.

`vectors.npz.partial/` holds `made_by.json`, which says of which model the vectors are, and parts of them in
numbered files, each with the path, size and time of change of its pictures. A picture that has changed is
encoded again; parts of another model are thrown away.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oneclip.checkpoint.write import replacing
from oneclip.cli.exits import say
from oneclip.errors import OutputError

if TYPE_CHECKING:
    from oneclip.encoder import Encoder, Features

INTERVAL = 20.0  # seconds of work that a crash may cost
State = tuple[int, int]  # size in bytes and time of change in nanoseconds


class Partial:
    """The finished part of an embedding, on disk.

    Args:
        output: what is to be written in the end.
        encoder: the model that makes the vectors.
    """

    def __init__(self, output: Path, encoder: Encoder) -> None:
        self.folder = output.with_name(output.name + ".partial")
        self._done: dict[str, tuple[State, Features]] = {}
        self._unsaved: dict[str, tuple[State, Features]] = {}
        self._states: dict[str, State] = {}  # as they were before the pictures were read
        self._saved_at = time.monotonic()
        self._made_by = {"model": encoder.name, "precision": encoder.precision, "probe": _probe(encoder)}
        if self.folder.is_dir():
            self._resume()

    def find(self, path: str) -> Features | None:
        """The vector (D,) of a picture that was encoded before and has not changed since."""
        key = os.path.abspath(path)
        self._states[key] = _state(path)
        state, vector = self._done.get(key, (None, None))
        return vector if state == self._states[key] else None

    def add(self, paths: list[str], vectors: Features) -> None:
        """Keep the vectors (N, D) of N pictures that `find` did not have; now and then they are written."""
        for key, vector in zip(map(os.path.abspath, paths), vectors, strict=True):
            self._unsaved[key] = (self._states[key], vector)
        if time.monotonic() - self._saved_at > INTERVAL:
            self.save()

    def save(self) -> None:
        """Write what is not yet written.

        Raises:
            OutputError: if that is not possible.
        """
        self._saved_at = time.monotonic()
        if not self._unsaved:
            return
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder} could not be made: {error.strerror}") from error
        if not (self.folder / "made_by.json").exists():
            with replacing(self.folder / "made_by.json") as temporary:
                temporary.write_text(json.dumps(self._made_by, indent=2), encoding="utf-8")
        states, vectors = zip(*self._unsaved.values(), strict=True)
        with replacing(self.folder / f"{time.time_ns()}.npz") as temporary, temporary.open("wb") as file:
            np.savez(
                file, paths=np.array(list(self._unsaved)), states=np.array(states), vectors=np.stack(vectors)
            )
        self._done.update(self._unsaved)
        self._unsaved.clear()

    def remove(self) -> None:
        """Clear away all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _resume(self) -> None:
        if not self._is_of_this_model():
            say(f"{self.folder} holds vectors of another model: starting anew", kind="note")
            self.remove()
            return
        for part in sorted(self.folder.glob("*.npz")):
            with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(part) as content:
                states = [(int(size), int(changed)) for size, changed in content["states"]]
                self._done.update(
                    zip(map(str, content["paths"]), zip(states, content["vectors"], strict=True), strict=True)
                )

    def _is_of_this_model(self) -> bool:
        try:
            made_by = json.loads((self.folder / "made_by.json").read_text(encoding="utf-8"))
            probe, ours = np.array(made_by["probe"]), np.array(self._made_by["probe"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        if any(made_by.get(key) != self._made_by[key] for key in ("model", "precision")):
            return False
        tolerance = 1e-4 if self._made_by["precision"] == "fp32" else 1e-2
        return probe.shape == ours.shape and bool(np.allclose(probe, ours, atol=tolerance))


def _probe(encoder: Encoder) -> list[float]:
    """The vector of one fixed picture: other weights, even under the same name, give another."""
    picture = np.add.outer(np.arange(64), 3 * np.arange(64))[..., None] * np.array([1, 2, 3]) % 256
    return [round(float(x), 6) for x in encoder.encode_images(picture.astype(np.uint8))[0]]


def _state(path: str) -> State:
    try:
        status = os.stat(path)
    except OSError:  # it vanished after it was read
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
