"""What of a model is trained: all of it, one tower, the last groups of both towers, or LoRA adapters."""

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


class Adapted(Protocol):
    """A model made ready for its way of training."""

    def after(self, state_dict: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was trained to the weights of the model as it was built.

        Args:
            state_dict: of the model that was trained.
            before: of the same model, before it was made ready.
        """
        ...

    def write(self, folder: Path, alpha: float) -> Path | None:
        """Write what was added to the model, scaled by alpha, into a folder of its own; None if nothing was."""
        ...


class InPlace:
    """Of a model that is trained as it is."""

    def after(self, state_dict: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `Adapted`."""
        return dict(state_dict)

    def write(self, folder: Path, alpha: float) -> Path | None:
        """See `Adapted`."""
        return None


class Way(NamedTuple):
    """One way.

    Attributes:
        lr: highest learning rate, if none is asked for.
        adapt: makes a model ready.
    """

    lr: float
    adapt: Callable[[nn.Module, FinetuneCfg], Adapted]


def _full(model: nn.Module, cfg: FinetuneCfg) -> Adapted:
    return InPlace()


def _lit(model: nn.Module, cfg: FinetuneCfg) -> Adapted:
    _lockable(model, "lock_image_tower")()
    return InPlace()


def _image(model: nn.Module, cfg: FinetuneCfg) -> Adapted:
    _lockable(model, "lock_text_tower")()
    return InPlace()


def _last(model: nn.Module, cfg: FinetuneCfg) -> Adapted:
    assert cfg.last is not None  # FinetuneCfg saw to that
    _lockable(model, "lock_image_tower")(unlocked_groups=cfg.last)
    _lockable(model, "lock_text_tower")(unlocked_layers=cfg.last)
    return InPlace()


def _lora(model: nn.Module, cfg: FinetuneCfg) -> Adapted:
    return Lora(model, rank=cfg.rank, alpha=cfg.lora_alpha, seed=cfg.seed, name=cfg.model)


BY_NAME: Mapping[str, Way] = {
    "full": Way(3e-5, _full),  # that of Wortsman et al. 2022, appendix
    "lora": Way(3e-4, _lora),
    "image": Way(3e-5, _image),
    "lit": Way(1e-4, _lit),
    "last": Way(1e-4, _last),
}


def adapt(model: nn.Module, cfg: FinetuneCfg) -> Adapted:
    """Make a model ready for its way of training, in place.

    Raises:
        ConfigError: if it cannot be trained so, or nothing is left to train.
        MissingExtraError: for LoRA without peft.
    """
    adapted = BY_NAME[cfg.way].adapt(model, cfg)
    freeze_batch_norm(model)  # statistics that follow the new pictures cost most of what a model forgets
    trained = [name for name, p in model.named_parameters() if p.requires_grad and name not in NOT_A_TOWER]
    if not trained:
        raise ConfigError(
            f"way={cfg.way!r} leaves nothing of {cfg.model} to train but its temperature; choose another way"
        )
    return adapted


def _lockable(model: nn.Module, method: str) -> Callable[..., Any]:
    found = getattr(model, method, None)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} has no groups of layers to lock ({method}); fine-tune it by way='full' or 'lora'"
        )
    lock: Callable[..., Any] = found
    return lock
