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

from oneclip.engine.cuda_graphs import CudaGraphs
from oneclip.engine.graph_cache import Compute, Recorded
from oneclip.engine.graph_shapes import Buckets, Captions, Pictures
from oneclip.engine.guards import Unplanned
from oneclip.engine.precision import PLANNED, Kernels, check_precision, kernels_for, name_of
from oneclip.engine.staleness import Watch, is_ordinary
from oneclip.engine.text_plan import TextPlan
from oneclip.engine.vision_plan import SigLIPPlan, VisionPlan
from oneclip.model import DualEncoder, SigLIPVision, VisionTransformer
from oneclip.model.layers import (
    lowest_precision as lowest_precision,
)  # of a model, for those who make its plans
from oneclip.model.scripting import is_tracing
from oneclip.model.text import TextTower
from oneclip.model.untouched import is_untouched


class Made(NamedTuple):
    """What a plan is now.

    Attributes:
        watch: says whether the tower is still what it was made of.
        compute: a batch to features (B, D) in fp32; None where the plain module is the way.
        words: what was chosen, and why.
        device: where the weights are, and batches must be.
    """

    watch: Watch
    compute: Compute | None
    words: str
    device: torch.device | None = None


class Plan:
    """One tower's plan.

    Args:
        model: whose tower it is.
        parts: finds the modules that the tower is; each has all that is below it.
        make: gives its computation on a device, and a description.
    """

    def __init__(
        self,
        model: DualEncoder,
        parts: Callable[[], Sequence[nn.Module]],
        make: Callable[[torch.device], tuple[Compute, str]],
    ) -> None:
        self._model, self._parts, self._make = model, parts, make
        self._made: Made | None = None
        self._lock = threading.Lock()

    def __call__(self, batch: Tensor) -> Tensor | None:
        """Features (B, D) in fp32 of a batch; None where only the plain module may compute them."""
        here = type(batch) is Tensor and len(batch) and batch.device.type in PLANNED
        if not here or not undisturbed(batch.device.type):
            return None
        made = self._current()
        if made.compute is None or made.device != batch.device or made.watch.hooked():
            return None
        return made.compute(batch)

    def describe(self) -> str:
        """What computes this tower, and why."""
        made = self._current()
        if made.watch.hooked():
            return "the plain module: a hook is registered"
        return made.words + (made.compute.remark if isinstance(made.compute, Recorded) else "")

    def _current(self) -> Made:
        made = self._made
        if made is None or not made.watch.holds():
            with self._lock:
                made = self._made
                if made is None or not made.watch.holds():
                    if made is not None:
                        _synchronize(made.device)  # it may be in use yet, on any stream
                    self._made = made = None  # the old one's memory first
                    self._made = made = self._build()
        return made

    def _build(self) -> Made:
        with torch.inference_mode(False), torch.no_grad():
            watch = Watch(self._parts(), alone=[self._model])
            try:
                device = _device_of(watch)
                compute, words = self._make(device)
                _synchronize(device)  # other streams may be the next to read what was packed
            except Unplanned as why:
                return Made(watch, None, f"the plain module: {why}")
            except torch.OutOfMemoryError:
                return Made(watch, None, "the plain module: the memory holds no packed weights beside it")
        return Made(watch, compute, words, device)


def image_plan(model: DualEncoder, precision: str) -> Plan:
    """The plan of a model's visual tower.

    Raises:
        ConfigError: if a plan comes in that precision nowhere, see `machine.PLANNED`.
    """
    check_precision(precision)

    def make(device: torch.device) -> tuple[Compute, str]:
        tower, kernels = model.visual, _kernels(precision, device)
        if isinstance(tower, (VisionTransformer, SigLIPVision)):
            kind = VisionPlan if isinstance(tower, VisionTransformer) else SigLIPPlan
            plan = kind(cast(Any, tower), kernels.pack, kernels.pack_patches)
            return _recorded(plan, Pictures(plan.tokens), device), kernels.description
        return _copy(tower, kernels)

    return Plan(model, lambda: [model.visual], make)


def text_plan(model: DualEncoder, precision: str) -> Plan:
    """The plan of a model's text tower, likewise."""
    check_precision(precision)

    def make(device: torch.device) -> tuple[Compute, str]:
        tower, kernels = model._text_tower(), _kernels(precision, device)
        if isinstance(tower, TextTower):
            plan = TextPlan(tower, kernels.pack)
            return _recorded(plan, Captions(tower.context_length, plan.pad), device), kernels.description
        return _copy(tower, kernels)

    def parts() -> list[nn.Module]:
        tower: Any = model._text_tower()
        is_flat = tower is model
        return list(tower._text_parts()) if is_flat else [tower]

    return Plan(model, parts, make)


def _kernels(precision: str, device: torch.device) -> Kernels:
    """Where a model has moved there may be no such plan: the plain module computes."""
    if precision not in PLANNED[device.type]:
        raise Unplanned(f"there is no plan in {precision} on {device}")
    return kernels_for(precision, device.type)


def _recorded(compute: Compute, buckets: Buckets, device: torch.device) -> Compute:
    """On a GPU, small batches are replayed from recordings."""
    return Recorded(compute, buckets, CudaGraphs(device)) if device.type == "cuda" else compute


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

    return compute, f"a copy of {type(tower).__name__} in {name_of(kernels.dtype)}" + (
        ", channels last" if convolutional else ""
    )


def _device_of(watch: Watch) -> torch.device:
    """Where all the weights are.

    Raises:
        Unplanned: if that is several devices, or one that no plan is for, or they are weights of another kind.
    """
    if any(m.training for m, _, _ in watch.modules):
        raise Unplanned("it is in training mode")
    for tensor, _ in watch.tensors:
        if tensor.device.type not in PLANNED or not is_ordinary(tensor):
            kind = "tensors" if is_ordinary(tensor) else f"{type(tensor).__name__}s of {tensor.layout} layout"
            raise Unplanned(f"its weights are {kind} on {tensor.device}")
    devices: set[torch.device] = {tensor.device for tensor, _ in watch.tensors}
    if len(devices) != 1:
        raise Unplanned(f"its weights are on {' and '.join(sorted(map(str, devices))) or 'no device'}")
    return devices.pop()


def _synchronize(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def undisturbed(device_type: str) -> bool:
    """Whether nothing is going on that a plan knows nothing of: gradients, autocast, a graph being recorded, hooks."""
    return is_untouched() and not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled(device_type)
        or (device_type == "cuda" and torch.cuda.is_current_stream_capturing())
        or torch.compiler.is_compiling()
        or is_tracing()
    )
