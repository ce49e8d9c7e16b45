"""Folder of a run: its files, and a lock that allows one run at a time."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from torch import Tensor

from oneclip import checkpoint
from oneclip.errors import OutputError
from oneclip.hub.atomic import replace_file, try_file_lock
from oneclip.train.checkpointing.checkpoint import make_folder
from oneclip.train.initial_model import InitialModel

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK, HOLDER = ".lock", ".lock.json"


class RunDir:
    """Output folder of a run. As a context it is locked: no other run writes to it.

    On leaving, a folder that was created on entering is removed again if the run wrote nothing.

    Args:
        path: created if it does not exist.

    Raises:
        OutputError: on entering, if the folder cannot be made or another run is writing to it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: BaseFileLock | None = None
        self._is_new = False

    @property
    def config(self) -> Path:
        """Return the path of the settings, which `oneclip train` can read."""
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        """Return the path of versions, machine and command."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """Return the path of the metrics, in lines of JSON."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Return the folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def plots(self) -> Path:
        """Return the folder of plots."""
        return self.path / "plots"

    @property
    def report(self) -> Path:
        """Return the path of the HTML report."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """Return the folder of the trained model, for `oneclip.load`."""
        return self.path / "model"

    def __enter__(self) -> RunDir:
        self._is_new = not self.path.exists()
        make_folder(self.path)
        self._lock = try_file_lock(self.path / LOCK)
        if self._lock is None:
            raise OutputError(
                f"another run is writing to {self.path} ({self._holder()}); wait for it, or choose another folder"
            )
        self._write_holder()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            (self.path / HOLDER).unlink()
        with suppress(OSError):
            if self._is_new and os.listdir(self.path) == [LOCK]:
                (self.path / LOCK).unlink()
                self.path.rmdir()
        self._release()

    def write_text(self, path: Path, text: str) -> None:
        """Write a text file of the run atomically.

        Raises:
            OutputError: if it cannot be written.
        """
        self.write_bytes(path, text.encode("utf-8"))

    def write_bytes(self, path: Path, content: bytes) -> None:
        """Write a binary file of the run atomically."""
        make_folder(path.parent)
        with replace_file(path) as temporary:
            temporary.write_bytes(content)

    def write_model(self, start: InitialModel, state_dict: Mapping[str, Tensor]) -> Path:
        """Write the trained model with its configuration, preprocessing and tokenizer.

        Args:
            start: initial model; its configuration, preprocessing and tokenizer are written.
            state_dict: weights, by the names of the model in `start.cfg`.

        Raises:
            OutputError: if it cannot be written; an earlier model is then unchanged.
        """
        tensors = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
        model = checkpoint.ConvertibleModel(tensors, start.cfg, start.preprocess_cfg, start.home)
        checkpoint.write_folder(model, self.model, force=True)
        return self.model

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _write_holder(self) -> None:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        facts = {"process": os.getpid(), "machine": socket.gethostname(), "since": since}
        try:
            (self.path / HOLDER).write_text(json.dumps(facts | {"command": sys.argv}), encoding="utf-8")
        except OSError as error:
            self._release()
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error

    def _holder(self) -> str:
        try:
            facts = json.loads((self.path / HOLDER).read_text(encoding="utf-8"))
            return f"process {facts['process']} on {facts['machine']}, since {facts['since']}"
        except (OSError, ValueError, KeyError, RecursionError, TypeError):
            return "unknown process"
