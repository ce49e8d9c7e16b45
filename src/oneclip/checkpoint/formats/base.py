"""Interface of all checkpoint formats: tensors and two small JSON objects to our names and configurations, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from oneclip.config import ModelCfg, PreprocessCfg
from oneclip.errors import ConfigError


@dataclass(frozen=True)
class NativeCheckpoint:
    """A checkpoint with our names.

    Attributes:
        state_dict: tensors by the names in `build_model(cfg)`.
        cfg: configuration of the model; None if the file does not contain it (the architecture must then be named).
        preprocess_cfg: preprocessing of its images; None if the file does not contain it.
    """

    state_dict: dict[str, Tensor]
    cfg: ModelCfg | None = None
    preprocess_cfg: PreprocessCfg | None = None

    def require_cfg(self, form: str) -> ModelCfg:
        """Return the configuration; raise ConfigError if it is missing, since `form` stores it."""
        if self.cfg is None:
            raise ConfigError(f"{form} needs the configuration of the model")
        return self.cfg


@dataclass(frozen=True)
class ForeignCheckpoint:
    """A checkpoint as another program stores it.

    Attributes:
        state_dict: tensors by the names of the format.
        config: content of the JSON file that describes the model, `config.json`, if there is one.
        preprocessor: content of the JSON file that describes the preprocessing, `preprocessor_config.json`, if there is
            one.
        notes: in what the programs of this format compute differently, one sentence each.
    """

    state_dict: Mapping[str, Tensor]
    config: Mapping[str, Any] | None = None
    preprocessor: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


class CheckpointFormat(Protocol):
    """A published form of checkpoints. Names and configurations are converted in both directions."""

    @property
    def name(self) -> str:
        """Name for people, used by `oneclip inspect` and in messages."""

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Check whether a checkpoint has this format, by the names and shapes of its tensors and its `config`."""

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Convert a checkpoint of this format to our names.

        Raises:
            CheckpointError: for unknown or missing tensors.
            ConfigError: for a configuration that cannot be computed exactly here; the message names the reason.
        """

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Convert a checkpoint to this format; `read` of the result gives the same tensors, bit for bit.

        Raises:
            ConfigError: for a model that the format cannot store; the message names the reason.
        """
