"""A tower to the fastest way found to compute its features: made when first needed, made again when the tower changed.

The plain module is the reference, and what is left wherever a plan could differ from it: with gradients, in training,
under a hook, while a graph is recorded.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all

from oneclip.engine.known import Unplanned
from oneclip.engine.machine import Kernels, kernels_for
from oneclip.engine.textual import TextPlan
from oneclip.engine.visual import SigLIPPlan, VisionPlan
from oneclip.engine.watch import Watch, is_ordinary
from oneclip.model import DualEncoder, SigLIPVision, VisionTransformer
from oneclip.model.scripting import is_tracing
from oneclip.model.text import TextTower

Compute = Callable[[Tensor], Tensor]
LOW_PRECISIONS = (torch.float16, torch.bfloat16)


class Made(NamedTuple):
    """What a plan is now.

    Attributes:
        watch: says whether the tower is still what it was made of.
        compute: a batch to features (B, D) in fp32; None where the plain module is the way.
        words: what was chosen, and why.
    """

    watch: Watch
    compute: Compute | None
    words: str


class Plan:
    """One tower's plan.

    Args:
        model: whose tower it is.
        parts: finds the modules that the tower is; each has all that is below it.
        make: gives its computation and a description.
    """

    def __init__(
        self,
        model: DualEncoder,
        parts: Callable[[], Sequence[nn.Module]],
        make: Callable[[], tuple[Compute, str]],
    ) -> None:
        self._model, self._parts, self._make = model, parts, make
        self._made: Made | None = None
        self._lock = threading.Lock()

    def __call__(self, batch: Tensor) -> Tensor | None:
        """Features (B, D) in fp32 of a batch on the CPU; None where only the plain module may compute them."""
        if not (type(batch) is Tensor and len(batch) and batch.device.type == "cpu") or not undisturbed():
            return None
        made = self._current()
        if made.compute is None or made.watch.hooked():
            return None
        return made.compute(batch)

    def describe(self) -> str:
        """What computes this tower, and why."""
        made = self._current()
        return "the plain module: a hook is registered" if made.watch.hooked() else made.words

    def _current(self) -> Made:
        made = self._made
        if made is None or not made.watch.holds():
            with self._lock:
                made = self._made
                if made is None or not made.watch.holds():
                    self._made = made = None  # the old one's memory first
                    self._made = made = self._build()
        return made

    def _build(self) -> Made:
        with torch.inference_mode(False), torch.no_grad():
            watch = Watch(self._parts(), alone=[self._model])
            try:
                _check_ready(watch)
                compute, words = self._make()
            except Unplanned as why:
                return Made(watch, None, f"the plain module: {why}")
        return Made(watch, compute, words)


def image_plan(model: DualEncoder, precision: str) -> Plan:
    """The plan of a model's visual tower; see `machine.kernels_for` for precisions."""
    kernels = kernels_for(precision)

    def make() -> tuple[Compute, str]:
        tower = model.visual
        if isinstance(tower, VisionTransformer):
            return VisionPlan(tower, kernels.pack, kernels.pack_patches), kernels.description
        if isinstance(tower, SigLIPVision):
            return SigLIPPlan(tower, kernels.pack, kernels.pack_patches), kernels.description
        return _copy(tower, kernels)

    return Plan(model, lambda: [model.visual], make)


def text_plan(model: DualEncoder, precision: str) -> Plan:
    """The plan of a model's text tower, likewise."""
    kernels = kernels_for(precision)

    def make() -> tuple[Compute, str]:
        tower = model._text_tower()
        if isinstance(tower, TextTower):
            return TextPlan(tower, kernels.pack), kernels.description
        return _copy(tower, kernels)

    return Plan(model, lambda: _text_parts(model), make)


def _text_parts(model: DualEncoder) -> list[nn.Module]:
    """The text tower; of a flat `CLIP`, what it has of its own."""
    tower = cast(Any, model._text_tower())
    if tower is not model:
        return [tower]
    parts = (tower.token_embedding, tower.transformer, tower.ln_final, tower.text_projection)
    return [part for part in parts if isinstance(part, nn.Module)]


def _copy(tower: nn.Module, kernels: Kernels) -> tuple[Compute, str]:
    """A tower that has no plan of its own: as it is, in the plan's precision, convolutions channels last."""
    convolutional = sum(isinstance(m, nn.Conv2d) for m in tower.modules()) > 3
    own = next(tower.parameters()).dtype
    if kernels.dtype == own and not convolutional:
        raise Unplanned(f"{type(tower).__name__} has none of its own")
    layout = torch.channels_last if convolutional else torch.preserve_format
    changed = cast(Any, copy.deepcopy(tower)).to(dtype=kernels.dtype, memory_format=layout)

    def compute(batch: Tensor) -> Tensor:
        if batch.is_floating_point():
            batch = batch.to(kernels.dtype, memory_format=layout)
        features = changed(batch)
        tensor: Tensor = features[0] if isinstance(features, tuple) else features
        return tensor.float()

    name = "bf16" if kernels.dtype == torch.bfloat16 else "fp32"
    return compute, f"a copy of {type(tower).__name__} in {name}" + (
        ", channels last" if convolutional else ""
    )


def _check_ready(watch: Watch) -> None:
    if any(m.training for m, _, _ in watch.modules):
        raise Unplanned("it is in training mode")
    for tensor, _ in watch.tensors:
        if tensor.device.type != "cpu" or not is_ordinary(tensor):
            kind = "tensors" if is_ordinary(tensor) else f"{type(tensor).__name__}s of {tensor.layout} layout"
            raise Unplanned(f"its weights are {kind} on {tensor.device}")


def undisturbed() -> bool:
    """Whether nothing is going on that a plan knows nothing of: gradients, autocast, a graph being recorded, hooks."""
    return not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_compiling()
        or is_tracing()
        or hooks_of_all._global_forward_hooks
        or hooks_of_all._global_forward_pre_hooks
    )


def lowest_precision(module: nn.Module) -> torch.dtype:
    """The lowest precision among a module's weights, which is that of its features: fp16, bf16 or fp32."""
    dtypes = {parameter.dtype for parameter in module.parameters()}
    return next((low for low in LOW_PRECISIONS if low in dtypes), torch.float32)
