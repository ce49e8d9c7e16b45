"""Faster inference for a model of oneclip, open_clip or clip: `encode_image` and `encode_text` use plans.

Shapes: B batch, L tokens, D joint embedding.
"""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.config import as_pair
from oneclip.config.precision import PLAN_PRECISIONS, precision_name
from oneclip.engine.plan import Plan, make_image_plan, make_text_plan
from oneclip.engine.precision import check_plan_precision
from oneclip.errors import ConfigError
from oneclip.model import CoCa, DualEncoder
from oneclip.model.layers import lowest_precision

METHODS = ("encode_image", "encode_text")


def accelerate(model: DualEncoder, precision: str | None = None) -> Accelerated:
    """Let a model's `encode_image` and `encode_text`, and so its `forward`, use a plan when gradients are off.

        oneclip.accelerate(model)  # from now on
        with oneclip.accelerate(model, "bf16"): ...  # inside the block

    The model computes as before with gradients, in training mode, under autocast or a hook, on devices other than CPUs
    and CUDA, and when it returns tokens. The parameters stay where they are: a plan is built from them at the first
    call, and again when they have changed.

    Args:
        model: of `oneclip`, `open_clip` or `clip`.
        precision: of the arithmetic: "fp32" or "bf16", on a CPU also "int8", on a GPU also "fp16"; None for the
            precision of the weights. Features keep the dtype that they had before.

    Returns:
        A handle: `remove()`, or the end of a `with` block, restores the model.

    Raises:
        ConfigError: if the model is not one of these, is already accelerated, or if the precision is unknown or has
            no plan on the model's device.
    """
    if not isinstance(model, DualEncoder):
        raise ConfigError(
            f"accelerate takes a model of oneclip, open_clip or clip; found a {type(model).__name__}"
            + (": pass its .model" if hasattr(model, "model") else "")
        )
    if any(name in vars(model) for name in METHODS):
        raise ConfigError(
            "encode_image or encode_text of this model was already replaced: call remove() on its handle first"
        )
    device_type = model.logit_scale.device.type
    if precision is None:
        precision = precision_name(lowest_precision(model))
        if precision not in PLAN_PRECISIONS.get(device_type, (precision,)):
            precision = "bf16"  # for fp16 on a CPU
    check_plan_precision(precision, device_type)
    return Accelerated(model, precision)


class Accelerated:
    """Handle of an accelerated model, made by `accelerate`."""

    def __init__(self, model: DualEncoder, precision: str) -> None:
        self.model, self.precision = model, precision
        self._make_plans()
        for name in METHODS:
            setattr(model, name, getattr(self, name))

    def _make_plans(self) -> None:
        self.image_plan: Plan = make_image_plan(self.model, self.precision)
        self.text_plan: Plan = make_text_plan(self.model, self.precision)

    def remove(self) -> None:
        """Restore the model's own methods; it can be called more than once."""
        for name in METHODS:
            if getattr(vars(self.model).get(name), "__self__", None) is self:
                delattr(self.model, name)

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "precision": self.precision}  # a copy makes plans of its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._make_plans()

    def describe(self) -> tuple[str, str]:
        """Say what computes images, and what computes texts, and why."""
        return self.image_plan.describe(), self.text_plan.describe()

    def encode_image(self, *args: Any, **kwargs: Any) -> Any:
        """Encode images (B, 3, H, W) to (B, D); arguments as of the model's own method."""
        return self._encode("encode_image", self.image_plan, self.model.visual, args, kwargs)

    def encode_text(self, *args: Any, **kwargs: Any) -> Any:
        """Encode token ids (B, L) to (B, D); arguments as of the model's own method."""
        return self._encode("encode_text", self.text_plan, self.model.text_module(), args, kwargs)

    def _encode(self, name: str, plan: Plan, tower: Any, args: Any, kwargs: Any) -> Any:
        plain = getattr(type(self.model), name)
        if getattr(tower, "output_tokens", False) and not isinstance(self.model, CoCa):
            return plain(self.model, *args, **kwargs)
        call = inspect.signature(plain).bind(self.model, *args, **kwargs)
        call.apply_defaults()
        _, batch, normalize = call.arguments.values()
        if not isinstance(batch, Tensor) or torch.is_grad_enabled() or not self._fits(name, batch):
            return plain(self.model, *args, **kwargs)  # which raises the error for a wrong batch
        if name == "encode_text":
            batch = self.model.trim(batch)
        features = plan(batch)
        if features is None:
            return plain(self.model, *args, **kwargs)
        features = features.to(lowest_precision(tower))
        return F.normalize(features, dim=-1) if normalize else features

    def _fits(self, name: str, batch: Tensor) -> bool:
        if name == "encode_text":
            return batch.ndim == 2 and batch.shape[1] > 0 and not batch.is_floating_point()
        size = getattr(self.model.visual, "image_size", None)
        return size is not None and tuple(batch.shape[1:]) == (3, *as_pair(size))
