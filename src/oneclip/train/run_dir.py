"""The folder of a run: one run at a time, what it was told, and the model that came of it."""

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

from filelock import FileLock, Timeout
from torch import Tensor

from oneclip import checkpoint
from oneclip.errors import OutputError
from oneclip.train.checkpointing.checkpoint import make_folder
from oneclip.train.initial_model import Start

LOCK, HOLDER = ".lock", ".lock.json"


class RunFolder:
    """Where a run writes; while entered, no other run does.

    Args:
        path: is made if it is not there.

    Raises:
        OutputError: on entering, if the folder cannot be made or another run is writing to it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / LOCK)

    @property
    def config(self) -> Path:
        """The settings, which `oneclip train` takes again."""
        return self.path / "config.toml"

    @property
    def environment(self) -> Path:
        """What the run ran on and with."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """What was measured, a line of JSON each time."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """The same for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def plots(self) -> Path:
        """The same, drawn."""
        return self.path / "plots"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The trained model, for `oneclip.load`."""
        return self.path / "model"

    def __enter__(self) -> RunFolder:
        make_folder(self.path)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"another run is writing to {self.path} ({self._holder()}); wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error
        self._write_holder()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            (self.path / HOLDER).unlink()
        self._lock.release()

    def write_text(self, path: Path, text: str) -> None:
        """Write a file of the run, whole or not at all.

        Raises:
            OutputError: if it cannot be written.
        """
        self.write_bytes(path, text.encode("utf-8"))

    def write_bytes(self, path: Path, content: bytes) -> None:
        """Likewise."""
        make_folder(path.parent)
        with checkpoint.replacing(path) as temporary:
            temporary.write_bytes(content)

    def write_model(self, start: Start, state_dict: Mapping[str, Tensor]) -> Path:
        """Write the trained model with its configuration, preprocessing and tokenizer.

        Args:
            start: what the training started from: all but the weights is its.
            state_dict: the weights, by the names of the model that `start.cfg` describes.

        Raises:
            OutputError: if it cannot be written; a model that was there is untouched.
        """
        tensors = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
        model = checkpoint.Exportable(tensors, start.cfg, start.preprocess_cfg, start.home)
        checkpoint.write_folder(model, self.model, force=True)
        return self.model

    def _write_holder(self) -> None:
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        facts = {"process": os.getpid(), "machine": socket.gethostname(), "since": since}
        try:
            (self.path / HOLDER).write_text(json.dumps(facts | {"command": sys.argv}), encoding="utf-8")
        except OSError as error:
            self._lock.release()
            raise OutputError(f"{self.path} cannot be written: {error.strerror}") from error

    def _holder(self) -> str:
        try:
            facts = json.loads((self.path / HOLDER).read_text(encoding="utf-8"))
            return f"process {facts['process']} on {facts['machine']}, since {facts['since']}"
        except (OSError, ValueError, KeyError, RecursionError, TypeError):
            return "it does not say which"
