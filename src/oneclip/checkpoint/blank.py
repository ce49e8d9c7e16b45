"""A configuration to a model whose weights have a place but no values yet: what `load_into` fills."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from oneclip.config import ModelCfg
from oneclip.model import build_model


def build_blank(cfg: ModelCfg, build: Callable[[ModelCfg], nn.Module] = build_model) -> Any:
    """A model of an architecture, without the random numbers that a checkpoint would replace anyway.

    They take far longer to draw than a checkpoint takes to read: seconds for ViT-L. What is computed rather than
    drawn, such as causal masks, is there.

    Args:
        cfg: the architecture.
        build: what makes a model of it.

    Returns:
        What `build` gives.
    """
    with _NoRandomNumbers():
        return build(cfg)


class _NoRandomNumbers(TorchFunctionMode):
    """Inside, whatever draws numbers leaves its tensor as it is."""

    IN_PLACE = (Tensor.normal_, Tensor.uniform_)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in self.IN_PLACE or getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if function is torch.randn:
            function = torch.empty
        return function(*args, **kwargs)
