"""Inference plan of a tower: built at the first call, and built again when the tower has changed.

The plain module is the reference. It also computes wherever a plan could give other numbers: with gradients, in
training mode, under a hook, while a graph is recorded.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from oneclip.config.precision import PLAN_PRECISIONS, check_precision, precision_name
from oneclip.engine.cuda_graphs import CudaGraphCapture
from oneclip.engine.graph_cache import Compute, GraphCache
from oneclip.engine.graph_shapes import ImageShapes, TextShapes
from oneclip.engine.guards import PlanUnsupported
from oneclip.engine.precision import Kernels, kernels_for
from oneclip.engine.staleness import ModuleFingerprint, is_plain_tensor
from oneclip.engine.text_plan import TextPlan
from oneclip.engine.thread_groups import run_chunked
from oneclip.engine.vision_plan import SigLIPPlan, VisionPlan
from oneclip.model import DualEncoder, SigLIPVision, VisionTransformer
from oneclip.model.text_base import TextTransformerBase
from oneclip.model.untouched import is_recorded, is_untouched


class BuiltPlan(NamedTuple):
    """Result of building a plan.

    Attributes:
        fingerprint: state of the tower that it was built from.
        compute: a batch to features (B, D) in fp32; None if the plain module has to compute.
        description: what was chosen, and why.
        device: where the weights are, and where batches must be.
    """

    fingerprint: ModuleFingerprint
    compute: Compute | None
    description: str
    device: torch.device | None = None


class Plan:
    """Inference plan of one tower.

    Args:
        model: the model that has the tower.
        parts: returns the modules of the tower; each includes all modules below it.
        build: makes the computation for a device, and its description.
    """

    def __init__(
        self,
        model: DualEncoder,
        parts: Callable[[], Sequence[nn.Module]],
        build: Callable[[torch.device], tuple[Compute, str]],
    ) -> None:
        self._model, self._parts, self._build_for = model, parts, build
        self._built: BuiltPlan | None = None
        self._lock = threading.Lock()

    def __call__(self, batch: Tensor) -> Tensor | None:
        """Compute the features (B, D) of a batch in fp32; None if only the plain module can compute them."""
        supported = type(batch) is Tensor and len(batch) and batch.device.type in PLAN_PRECISIONS
        if not supported or not plan_applies(batch.device.type):
            return None
        built = self._current()
        if built.compute is None or built.device != batch.device or built.fingerprint.has_hooks():
            return None
        return built.compute(batch)

    def describe(self) -> str:
        """Say what computes this tower, and why."""
        built = self._current()
        if built.fingerprint.has_hooks():
            return "the plain module: a hook is registered"
        return built.description + (built.compute.remark if isinstance(built.compute, GraphCache) else "")

    def _current(self) -> BuiltPlan:
        """Return the plan of the tower's present state."""
        built = self._built
        if built is None or not built.fingerprint.is_current():
            with self._lock:
                built = self._built
                if built is None or not built.fingerprint.is_current():
                    if built is not None:
                        _synchronize(built.device)  # another stream may still use it
                    self._built = built = None  # free its memory before the new one is built
                    self._built = built = self._build()
        return built

    def _build(self) -> BuiltPlan:
        with torch.inference_mode(False), torch.no_grad():
            fingerprint = ModuleFingerprint(self._parts(), alone=[self._model])
            try:
                device = _device_of(fingerprint)
                compute, description = self._build_for(device)
                _synchronize(device)  # other streams may read the packed weights next
            except PlanUnsupported as reason:
                return BuiltPlan(fingerprint, None, f"the plain module: {reason}")
            except torch.OutOfMemoryError:
                return BuiltPlan(fingerprint, None, "the plain module: not enough memory for packed weights")
        return BuiltPlan(fingerprint, compute, description, device)


def make_image_plan(model: DualEncoder, precision: str) -> Plan:
    """Make the plan of a model's image tower; it is built at the first call.

    Raises:
        ConfigError: for an unknown precision.
    """
    check_precision(precision)

    def build(device: torch.device) -> tuple[Compute, str]:
        tower, kernels = model.visual, _kernels(precision, device)
        if not isinstance(tower, (VisionTransformer, SigLIPVision)):
            return _copy_in_precision(tower, kernels)
        kind = VisionPlan if isinstance(tower, VisionTransformer) else SigLIPPlan
        plan = kind(cast(Any, tower), kernels.pack, kernels.pack_patches)
        if device.type == "cuda":
            return GraphCache(plan, ImageShapes(plan.tokens), CudaGraphCapture(device)), kernels.description
        return partial(run_chunked, plan, plan.hidden, plan.tokens), kernels.description

    return Plan(model, lambda: [model.visual], build)


def make_text_plan(model: DualEncoder, precision: str) -> Plan:
    """Make the plan of a model's text tower; it is built at the first call.

    Raises:
        ConfigError: for an unknown precision.
    """
    check_precision(precision)

    def build(device: torch.device) -> tuple[Compute, str]:
        tower, kernels = model.text_module(), _kernels(precision, device)
        if not isinstance(tower, TextTransformerBase):
            return _copy_in_precision(tower, kernels)
        plan = TextPlan(tower, kernels.pack)
        if device.type == "cuda":
            shapes = TextShapes(tower.context_length, plan.pad)
            return GraphCache(plan, shapes, CudaGraphCapture(device)), kernels.description
        return plan.shared or partial(run_chunked, plan, plan.hidden, None), kernels.description

    return Plan(model, model.text_parts, build)


def _kernels(precision: str, device: torch.device) -> Kernels:
    """Return the kernels of a plan; a model can move to a device that has no plan in its precision."""
    if precision not in PLAN_PRECISIONS[device.type]:
        raise PlanUnsupported(f"no plan in {precision} on {device}")
    return kernels_for(precision, device.type)


def _copy_in_precision(tower: nn.Module, kernels: Kernels) -> tuple[Compute, str]:
    """Copy a tower that has no plan class into the plan's precision, convolutional ones with channels last."""
    convolutional = sum(isinstance(m, nn.Conv2d) for m in tower.modules()) > 3
    own = next(tower.parameters()).dtype
    if kernels.dtype == own and not convolutional:
        raise PlanUnsupported(f"{type(tower).__name__} has no plan")
    layout = torch.channels_last if convolutional else torch.preserve_format
    changed = cast(Any, copy.deepcopy(tower)).to(dtype=kernels.dtype, memory_format=layout)

    def compute(batch: Tensor) -> Tensor:
        if batch.is_floating_point():
            batch = batch.to(kernels.dtype, memory_format=layout)
        features = changed(batch)
        tensor: Tensor = features[0] if isinstance(features, tuple) else features
        return tensor.float()

    description = f"a copy of {type(tower).__name__} in {precision_name(kernels.dtype)}"
    return compute, description + (", channels last" if convolutional else "")


def _device_of(fingerprint: ModuleFingerprint) -> torch.device:
    """Return the device of all weights.

    Raises:
        PlanUnsupported: if they are on several devices, on a device without plans, or not plain tensors; or if the
            tower is in training mode.
    """
    if any(m.training for m, _, _ in fingerprint.modules):
        raise PlanUnsupported("it is in training mode")
    for tensor, _ in fingerprint.tensors:
        if tensor.device.type not in PLAN_PRECISIONS or not is_plain_tensor(tensor):
            plain = is_plain_tensor(tensor)
            kind = "tensors" if plain else f"{type(tensor).__name__}s of {tensor.layout} layout"
            raise PlanUnsupported(f"its weights are {kind} on {tensor.device}")
    devices: set[torch.device] = {tensor.device for tensor, _ in fingerprint.tensors}
    if len(devices) != 1:
        raise PlanUnsupported(f"its weights are on {' and '.join(sorted(map(str, devices))) or 'no device'}")
    return devices.pop()


def _synchronize(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def plan_applies(device_type: str) -> bool:
    """Return whether a plan may compute now: no gradients, autocast, tracing, graph capture or global hooks."""
    return is_untouched() and not (
        torch.is_grad_enabled()
        or torch.is_autocast_enabled(device_type)
        or (device_type == "cuda" and torch.cuda.is_current_stream_capturing())
        or is_recorded()
    )
