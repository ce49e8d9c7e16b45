"""A model of any facade to the same model, sooner: its `encode_image` and `encode_text` without gradient take the plan.

Shapes: B batch, L tokens, D joint embedding.
"""

from __future__ import annotations

import inspect
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oneclip.engine.plan import Plan, image_plan, lowest_precision, text_plan
from oneclip.engine.precision import NAMES, PLANNED, check_precision
from oneclip.errors import ConfigError
from oneclip.model import CoCa, DualEncoder
from oneclip.model.vision_common import pair

METHODS = ("encode_image", "encode_text")


def accelerate(model: DualEncoder, precision: str | None = None) -> Accelerated:
    """Let a model's `encode_image` and `encode_text`, and so its `forward`, take a plan where no gradient is asked for.

        oneclip.accelerate(model)  # from now on
        with oneclip.accelerate(model, "bf16"): ...  # for a while

    With gradients, in training mode, under autocast or a hook, on other devices than CPUs and CUDA, and for whole token
    outputs the model computes as before. The parameters stay where they are: a plan is made of them at the first call,
    and again when they have changed.

    Args:
        model: of `oneclip`, `open_clip` or `clip`.
        precision: "fp32" or "bf16", on a CPU also "int8", on a GPU "fp16": of what is computed; that of the weights
            when None. Features come out in the precision that they had before.

    Returns:
        What takes it back: by `remove()`, or at the end of a `with`.

    Raises:
        ConfigError: if this is no such model, it is accelerated already, or the precision is none.
    """
    if not isinstance(model, DualEncoder):
        raise ConfigError(
            f"accelerate takes a model of oneclip, open_clip or clip; found a {type(model).__name__}"
            + (": give it encoder.model" if hasattr(model, "model") else "")
        )
    if any(name in vars(model) for name in METHODS):
        raise ConfigError(
            "encode_image or encode_text of this model was replaced already: take that back first"
        )
    if precision is None:
        precision = NAMES[lowest_precision(model)]
        if precision not in PLANNED.get(model.logit_scale.device.type, (precision,)):
            precision = "bf16"  # for fp16 on a CPU
    check_precision(precision, model.logit_scale.device.type)
    return Accelerated(model, precision)


class Accelerated:
    """The way that calls of a model take; made by `accelerate`."""

    def __init__(self, model: DualEncoder, precision: str) -> None:
        self.model, self.precision = model, precision
        self._plan()
        for name in METHODS:
            setattr(model, name, getattr(self, name))

    def _plan(self) -> None:
        self.image_plan: Plan = image_plan(self.model, self.precision)
        self.text_plan: Plan = text_plan(self.model, self.precision)

    def remove(self) -> None:
        """Let the model compute as before; more than once does no harm."""
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
        return {
            "model": self.model,
            "precision": self.precision,
        }  # a copy of the model makes plans of its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._plan()

    def describe(self) -> tuple[str, str]:
        """What computes pictures, and what computes captions, and why."""
        return self.image_plan.describe(), self.text_plan.describe()

    def encode_image(self, *arguments: Any, **named: Any) -> Any:
        """As the model's: (B, 3, H, W) to (B, D)."""
        return self._encode("encode_image", self.image_plan, self.model.visual, arguments, named)

    def encode_text(self, *arguments: Any, **named: Any) -> Any:
        """As the model's: (B, L) to (B, D)."""
        return self._encode("encode_text", self.text_plan, self.model._text_tower(), arguments, named)

    def _encode(self, name: str, plan: Plan, tower: Any, arguments: Any, named: Any) -> Any:
        plain = getattr(type(self.model), name)
        if getattr(tower, "output_tokens", False) and not isinstance(self.model, CoCa):
            return plain(self.model, *arguments, **named)
        call = inspect.signature(plain).bind(self.model, *arguments, **named)
        call.apply_defaults()
        _, batch, normalize = call.arguments.values()
        if not isinstance(batch, Tensor) or torch.is_grad_enabled() or not self._fits(name, batch):
            return plain(self.model, *arguments, **named)  # which says what is wrong with it, if anything
        if name == "encode_text":
            batch = self.model.trim(batch)  # type: ignore[operator]
        features = plan(batch)
        if features is None:
            return plain(self.model, *arguments, **named)
        features = features.to(lowest_precision(tower))
        return F.normalize(features, dim=-1) if normalize else features

    def _fits(self, name: str, batch: Tensor) -> bool:
        if name == "encode_text":
            return batch.ndim == 2 and batch.shape[1] > 0 and not batch.is_floating_point()
        size = getattr(self.model.visual, "image_size", None)
        return size is not None and tuple(batch.shape[1:]) == (3, *pair(size))
