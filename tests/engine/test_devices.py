"""Plans stay on their device: no step uses another device, or waits for a number."""

from typing import Any

import pytest
import torch
from engine_models import CONTEXT, TEXT, VISION, small_model, small_siglip
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneclip.engine.precision import PLAN_PRECISIONS, kernels_for
from oneclip.engine.text_plan import TextPlan
from oneclip.engine.vision_plan import SigLIPPlan, VisionPlan


class OnlyMeta(TorchDispatchMode):
    """Mode that refuses tensors on other devices; tensors on the meta device have no numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, found)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta, f"{func} has a tensor on {tensor.device}"
        return found


def run(plan: Any, batch: Tensor) -> None:
    with torch.no_grad(), OnlyMeta():
        features = plan(batch)
    assert (features.dtype, len(features)) == (torch.float32, len(batch))


@pytest.mark.parametrize("precision", PLAN_PRECISIONS["cuda"])
@pytest.mark.parametrize("option", VISION)
def test_image_plans_stay_on_their_device(option: str, precision: str) -> None:
    tower, kernels = small_model(VISION[option]).to("meta").visual, kernels_for(precision, "cuda")
    pixels = torch.empty(3, 3, *tower.image_size, device="meta")
    run(VisionPlan(tower, kernels.pack, kernels.pack_patches), pixels)


@pytest.mark.parametrize("precision", PLAN_PRECISIONS["cuda"])
@pytest.mark.parametrize("option", TEXT)
def test_text_plans_stay_on_their_device(option: str, precision: str) -> None:
    tower = small_model(text=TEXT[option], custom_text=True, quick_gelu=True).to("meta").text
    ids = torch.ones(5, CONTEXT, dtype=torch.long, device="meta")
    run(TextPlan(tower, kernels_for(precision, "cuda").pack), ids)


@pytest.mark.parametrize("precision", PLAN_PRECISIONS["cuda"])
def test_siglip_plans_stay_on_their_device(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip("vit_so400m_patch14_siglip_224", monkeypatch).to("meta")
    kernels = kernels_for(precision, "cuda")
    plan = SigLIPPlan(model.visual, kernels.pack, kernels.pack_patches)
    run(plan, torch.empty(3, 3, *model.visual.image_size, device="meta"))
