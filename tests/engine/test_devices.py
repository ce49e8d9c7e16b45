"""A plan works where its weights are: no step of it touches another device, or waits for a number."""

from typing import Any

import pytest
import torch
from test_plans import CONTEXT, TEXT, VISION, model_of, small_siglip
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from oneclip.engine.precision import PLANNED, kernels_for
from oneclip.engine.text_plan import TextPlan
from oneclip.engine.vision_plan import SigLIPPlan, VisionPlan


class OnlyMeta(TorchDispatchMode):
    """Refuses tensors of other devices; the meta device has no numbers that could be waited for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, found)):
            assert not isinstance(tensor, Tensor) or tensor.is_meta, f"{func} has a tensor on {tensor.device}"
        return found


def run(plan: Any, batch: Tensor) -> None:
    with torch.no_grad(), OnlyMeta():
        features = plan(batch)
    assert (features.dtype, len(features)) == (torch.float32, len(batch))


@pytest.mark.parametrize("precision", PLANNED["cuda"])
@pytest.mark.parametrize("option", VISION)
def test_pictures(option: str, precision: str) -> None:
    tower, kernels = model_of(VISION[option]).to("meta").visual, kernels_for(precision, "cuda")
    pixels = torch.empty(3, 3, *tower.image_size, device="meta")
    run(VisionPlan(tower, kernels.pack, kernels.pack_patches), pixels)


@pytest.mark.parametrize("precision", PLANNED["cuda"])
@pytest.mark.parametrize("option", TEXT)
def test_captions(option: str, precision: str) -> None:
    tower = model_of(text=TEXT[option], custom_text=True, quick_gelu=True).to("meta").text
    ids = torch.ones(5, CONTEXT, dtype=torch.long, device="meta")
    run(TextPlan(tower, kernels_for(precision, "cuda").pack), ids)


@pytest.mark.parametrize("precision", PLANNED["cuda"])
def test_siglip(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip("vit_so400m_patch14_siglip_224", monkeypatch).to("meta")
    kernels = kernels_for(precision, "cuda")
    plan = SigLIPPlan(model.visual, kernels.pack, kernels.pack_patches)
    run(plan, torch.empty(3, 3, *model.visual.image_size, device="meta"))
