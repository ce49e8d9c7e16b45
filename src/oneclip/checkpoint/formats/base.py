"""What every format has in common: tensors and two small JSON objects in, our names and configurations out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from oneclip.config import ModelCfg, PreprocessCfg


@dataclass(frozen=True)
class Converted:
    """A checkpoint in our names.

    Attributes:
        state_dict: tensors by the names that `build_model(cfg)` has.
        cfg: what the model is; None if the file does not say it (it then has to be named).
        preprocess_cfg: how a picture becomes a tensor for it; None if the file does not say it.
    """

    state_dict: dict[str, Tensor]
    cfg: ModelCfg | None = None
    preprocess_cfg: PreprocessCfg | None = None


@dataclass(frozen=True)
class Published:
    """A checkpoint as a format has it: the tensors, and what lies beside them.

    Attributes:
        state_dict: tensors by the format's names.
        config: content of the JSON file that describes the model, if the format has one.
        preprocessor: content of the JSON file that describes the preprocessing, if the format has one.
        notes: what of the model the format's own programs do otherwise, a sentence each.
    """

    state_dict: dict[str, Tensor]
    config: Mapping[str, Any] | None = None
    preprocessor: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()


class Format(Protocol):
    """One way in which models are published: a key map read in both directions, and configurations likewise."""

    @property
    def name(self) -> str:
        """What people call it, for `oneclip inspect` and messages."""

    def recognises(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Whether a checkpoint is of this format: by its names and its `config`; no tensor is looked into."""

    def read(
        self,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        preprocessor: Mapping[str, Any] | None = None,
    ) -> Converted:
        """Theirs to ours.

        Args:
            state_dict: tensors by the format's names.
            config: content of its `config.json`, if it has one.
            preprocessor: content of its `preprocessor_config.json`, if it has one.

        Raises:
            CheckpointError: for tensors that do not belong there or are missing.
            ConfigError: for a configuration that cannot be computed here exactly; it says which part.
        """

    def write(self, model: Converted) -> Published:
        """Ours to theirs; `read` of it gives the same tensors, bit for bit.

        Raises:
            ConfigError: for a model that the format cannot hold; it says why.
        """
