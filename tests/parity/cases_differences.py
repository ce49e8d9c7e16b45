"""Documented features that do not work in open_clip_torch 3.3.0, listed in docs/compatibility.md.

Both sides of a comparison run this file: each probe says whether the package does what is documented.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from cases_model import RESNET, TEXT, VIT
from parity_weights import random_ids, random_images
from torch import Tensor, nn

ATTENTIONAL = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5}


def observe(package: Any) -> dict[str, bool]:
    """Return whether each probe passes."""

    def model(vision: dict[str, Any] = VIT, text: dict[str, Any] = TEXT, kind: str = "CLIP") -> nn.Module:
        torch.manual_seed(0)
        made: nn.Module = getattr(package, kind)(64, vision, text)
        return made.eval()

    image, ids = random_images(2, 32), random_ids(3, 16, 120)
    return {name: _passes(lambda p=probe: p(model, image, ids)) for name, probe in PROBES.items()}


def _passes(probe: Callable[[], Any]) -> bool:
    try:
        with torch.no_grad():
            return bool(probe())
    except Exception:
        return False


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.allclose(a, b, atol=1e-5))


def _stop_early(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model()
    seen = made.forward_intermediates(image, image_indices=[0], stop_early=True)
    return _same(seen["image_features"], made.encode_image(image, normalize=True))


def _stop_early_in_text(model: Any, image: Tensor, ids: Tensor) -> bool:
    made, ran = model(), []
    made.transformer.resblocks[1].register_forward_hook(lambda *_: ran.append(1))
    made.forward_intermediates(text=ids, text_indices=[0], stop_early=True, intermediates_only=True)
    return not ran


def _stages(model: Any, image: Tensor, ids: Tensor) -> bool:
    seen = model(RESNET).forward_intermediates(image, image_indices=[0])
    return "image_features" in seen


def _resnet_tokens(model: Any, image: Tensor, ids: Tensor) -> bool:
    seen = model(RESNET).forward_intermediates(image, image_output_fmt="NLC", intermediates_only=True)
    return seen["image_intermediates"][0].ndim == 3


def _resnet_lock(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model(RESNET)
    made.lock_image_tower(unlocked_groups=1)
    return any(parameter.requires_grad for parameter in made.visual.parameters())


def _frozen_names(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model(RESNET)
    names = set(made.state_dict())
    made.lock_image_tower(freeze_bn_stats=True)
    return set(made.state_dict()) == names


def _resnet_checkpointing(model: Any, image: Tensor, ids: Tensor) -> bool:
    made, maps = model(RESNET), []
    made.set_grad_checkpointing(True)

    def keep(tensor: Tensor) -> Tensor:
        maps.append(tensor.ndim == 4 and tensor.shape[0] == 2)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made.encode_image(image)
    return sum(maps) < 20


def _norms(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model()
    made.lock_text_tower(freeze_layer_norm=False)
    return bool(made.ln_final.weight.requires_grad)


def _unlocked_pool(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model({**VIT, **ATTENTIONAL})
    made.lock_image_tower(unlocked_groups=2)
    return all(parameter.requires_grad for parameter in made.visual.attn_pool.parameters())


def _fixed_positions(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model({**VIT, "pos_embed_type": "sin_cos_2d"})
    made.lock_image_tower(unlocked_groups=99)
    return not made.visual.positional_embedding.requires_grad


def _grid(model: Any, image: Tensor, ids: Tensor) -> bool:
    return model({**VIT, "pos_embed_type": "sin_cos_2d", "image_size": (32, 48)}) is not None


def _cosine(model: Any, image: Tensor, ids: Tensor) -> bool:
    return model({**VIT, "scaled_cosine_attn": True}).encode_image(image).shape == (2, 64)


def _cascade(model: Any, image: Tensor, ids: Tensor) -> bool:
    vision = {**VIT, **ATTENTIONAL, "attentional_pool": "cascade", "width": 128}
    return model(vision).encode_image(image).numel() == 2 * 64


def _custom_checkpointing(model: Any, image: Tensor, ids: Tensor) -> bool:
    made = model({**VIT, "qk_norm": True})
    made.set_grad_checkpointing(True)
    with torch.enable_grad():
        made.encode_image(image).sum().backward()
    return True


def _tokens(model: Any, image: Tensor, ids: Tensor) -> bool:
    return model({**VIT, "output_tokens": True})(image, ids)[0].shape == (2, 64)


def _short(model: Any, image: Tensor, ids: Tensor) -> bool:
    return model().encode_text(ids[:1, :9]).shape == (1, 64)


def _format(model: Any, image: Tensor, ids: Tensor) -> bool:
    return len(model(kind="CustomTextCLIP").text.forward_intermediates(ids)["text_intermediates"]) == 2


PROBES = {
    "stop_early with features": _stop_early,
    "stop_early in the text tower": _stop_early_in_text,
    "any stages of a ResNet": _stages,
    "tokens of a ResNet": _resnet_tokens,
    "a ResNet locked in part": _resnet_lock,
    "names under frozen batch norms": _frozen_names,
    "checkpointing in a ResNet": _resnet_checkpointing,
    "trainable norms in a locked text tower": _norms,
    "attentional pools unlocked": _unlocked_pool,
    "sin-cos positions fixed": _fixed_positions,
    "sin-cos positions on any grid": _grid,
    "scaled cosine attention": _cosine,
    "cascaded pools": _cascade,
    "custom blocks checkpointed": _custom_checkpointing,
    "features of a tower that gives tokens": _tokens,
    "captions shorter than the context": _short,
    "the one format of text intermediates": _format,
}
