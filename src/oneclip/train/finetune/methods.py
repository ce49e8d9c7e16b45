"""Fine-tuning methods: all weights, one tower, the last groups of both towers, or LoRA adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from oneclip.config.finetune import FinetuneCfg
from oneclip.errors import ConfigError
from oneclip.model.layers import freeze_batch_norm
from oneclip.train.finetune.lora import Lora

NOT_A_TOWER = ("logit_scale", "logit_bias")


class AdaptedModel(Protocol):
    """Model that is ready for its fine-tuning method."""

    def merged_weights(
        self, state_dict: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the trained weights by the names of the original model.

        Args:
            state_dict: weights of the trained model.
            before: weights of the original model.
        """
        ...

    def write(self, folder: Path, alpha: float) -> Path | None:
        """Write adapters, scaled by alpha, into a folder and return it; None without adapters."""
        ...


class PlainModel:
    """Adapted model without adapters."""

    def merged_weights(
        self, state_dict: Mapping[str, Tensor], before: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """See `AdaptedModel`."""
        return dict(state_dict)

    def write(self, folder: Path, alpha: float) -> Path | None:
        """See `AdaptedModel`."""
        return None


class Method(NamedTuple):
    """Fine-tuning method.

    Attributes:
        lr: default of the highest learning rate.
        adapt: prepares a model in place.
    """

    lr: float
    adapt: Callable[[nn.Module, FinetuneCfg], AdaptedModel]


def _full(model: nn.Module, cfg: FinetuneCfg) -> AdaptedModel:
    return PlainModel()


def _lit(model: nn.Module, cfg: FinetuneCfg) -> AdaptedModel:
    _lockable(model, "lock_image_tower")()
    return PlainModel()


def _image(model: nn.Module, cfg: FinetuneCfg) -> AdaptedModel:
    _lockable(model, "lock_text_tower")()
    return PlainModel()


def _last(model: nn.Module, cfg: FinetuneCfg) -> AdaptedModel:
    assert cfg.last is not None  # checked by FinetuneCfg
    _lockable(model, "lock_image_tower")(unlocked_groups=cfg.last)
    _lockable(model, "lock_text_tower")(unlocked_layers=cfg.last)
    return PlainModel()


def _lora(model: nn.Module, cfg: FinetuneCfg) -> AdaptedModel:
    return Lora(model, rank=cfg.rank, alpha=cfg.lora_alpha, seed=cfg.seed, name=cfg.model)


METHODS_BY_NAME: Mapping[str, Method] = {
    "full": Method(3e-5, _full),  # Wortsman et al. 2022, appendix
    "lora": Method(3e-4, _lora),
    "image": Method(3e-5, _image),
    "lit": Method(1e-4, _lit),
    "last": Method(1e-4, _last),
}


def adapt(model: nn.Module, cfg: FinetuneCfg) -> AdaptedModel:
    """Prepare a model for its fine-tuning method, in place.

    Raises:
        ConfigError: if the model does not support the method, or nothing is left to train.
        MissingExtraError: for LoRA without peft.
    """
    adapted = METHODS_BY_NAME[cfg.method].adapt(model, cfg)
    freeze_batch_norm(model)  # statistics of the new images would cause most of the forgetting
    trained = [name for name, p in model.named_parameters() if p.requires_grad and name not in NOT_A_TOWER]
    if not trained:
        raise ConfigError(
            f"method={cfg.method!r} leaves nothing of {cfg.model} to train but its temperature; choose another method"
        )
    return adapted


def _lockable(model: nn.Module, method: str) -> Callable[..., Any]:
    found = getattr(model, method, None)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} cannot lock groups of layers ({method} is missing); use method='full' or 'lora'"
        )
    lock: Callable[..., Any] = found
    return lock
