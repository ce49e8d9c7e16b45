"""TorchScript versions of the models, for `torch.jit.script` and `create_model(jit=True)`.

The models check their inputs, cut texts, take shortcuts and support gradient checkpointing, which TorchScript cannot
compile. The classes here contain replacements for those methods. `torch.jit.script` calls `__prepare_scriptable__` of
each module, which returns a copy with the same tensors and these methods; methods that a program has overridden stay.

Shapes: B batch, L tokens, C width, D joint embedding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, lru_cache
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oneclip import model as core
from oneclip.model.dual_encoder import DualEncoder
from oneclip.model.siglip_layers import PatchEmbed
from oneclip.model.siglip_trunk import SigLIPTrunk
from oneclip.model.text_base import TextTransformerBase
from oneclip.model.timm_tower import TimmTower
from oneclip.model.transformer import BlockStack

# methods that stay Python methods of a script, as in the published package, and the methods that they call
PYTHON_METHODS = (
    *("set_grad_checkpointing", "_set_text_grad_checkpointing", "no_weight_decay", "_text_no_weight_decay"),
    *("image_tower", "text_tower"),
)


class _Block(core.ResidualAttentionBlock):
    def get_weight_dtype(self) -> torch.dtype:
        return self.mlp.c_fc.weight.dtype  # type: ignore[no-any-return]

    def attention(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
    ) -> Tensor:
        k_x = k_x if k_x is not None else q_x
        v_x = v_x if v_x is not None else q_x
        attn_mask = attn_mask.to(q_x.dtype) if attn_mask is not None else None
        out: Tensor = self.attn(q_x, k_x, v_x, need_weights=False, attn_mask=attn_mask)[0]
        return out


class _CustomBlock(core.CustomResidualAttentionBlock):
    def get_weight_dtype(self) -> torch.dtype:
        return self.mlp.c_fc.weight.dtype  # type: ignore[no-any-return]


class _Stack(BlockStack):
    def get_cast_dtype(self) -> torch.dtype:
        return self.resblocks[0].get_weight_dtype()  # type: ignore[no-any-return]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if not self.batch_first:
            x = x.transpose(0, 1).contiguous()
        for block in self.resblocks:
            x = block(x, attn_mask=attn_mask)
        return x if self.batch_first else x.transpose(0, 1)


class _Decoder(core.MultimodalTransformer):
    def read(self, image_embs: Tensor, text_embs: Tensor) -> Tensor:
        length = text_embs.shape[1]
        mask = self.attn_mask[:length, :length]
        x = text_embs
        if not self.batch_first:
            image_embs, x = image_embs.transpose(0, 1), x.transpose(0, 1)
        for block, cross in zip(self.resblocks, self.cross_attn):  # noqa: B905  # TorchScript has no `strict`
            x = cross(block(x, attn_mask=mask), k_x=image_embs, v_x=image_embs)
        return x if self.batch_first else x.transpose(0, 1)


class _VisionTransformer(core.VisionTransformer):
    def _embed_patches(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (B, N, C)
        class_token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype)


class _ModifiedResNet(core.ModifiedResNet):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return self.attnpool(x)  # type: ignore[no-any-return]


class _PatchEmbed(PatchEmbed):
    def _check(self, x: Tensor) -> None:
        pass


class _SigLIPVision(core.SigLIPVision):
    pass


class _SigLIPTrunk(SigLIPTrunk):
    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = self._embed(x)
        if attn_mask is not None or is_causal:
            for block in self.blocks:
                x = block(x, attn_mask=attn_mask, is_causal=is_causal)
        else:
            x = self.blocks(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def _pos_embed(self, x: Tensor) -> Tensor:
        return self.pos_drop(x + self.pos_embed)  # type: ignore[no-any-return]


class _TimmTower(TimmTower):
    def _check(self, x: Tensor) -> None:
        pass


class _TextTransformerBase(TextTransformerBase):
    __constants__ = ("projects_by_layer",)  # so that only one branch of `_project` is compiled
    projects_by_layer: bool

    def _embeds(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.cls_emb is not None and text.shape[1] < self.context_length:
            text = torch.cat([text, torch.full_like(text[:, :1], self.pad_id)], dim=1)
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype)  # (B, L, C)
        positions = self.positional_embedding[: text.shape[1]]
        if self.cls_emb is not None:
            class_token = self.cls_emb.to(dtype).expand(x.shape[0], 1, -1)
            x = torch.cat([x, class_token], dim=1)
            positions = torch.cat([positions, self.positional_embedding[-1:]])
        x = x + positions.to(dtype)
        mask: Tensor | None = None
        if self.attn_mask is not None:
            mask = self.attn_mask[: x.shape[1], : x.shape[1]]
        if self.use_pad_mask or self.cls_emb is not None:
            padding = self._build_additive_mask(text, x.shape[1], dtype)
            mask = padding if mask is None else mask.unsqueeze(0) + padding
        return x, mask

    def _project(self, pooled: Tensor) -> Tensor:
        if self.projects_by_layer:
            pooled = self.text_projection(pooled)
        elif self.text_projection is not None:
            pooled = pooled @ self.text_projection
        return pooled


class _TextTransformer(core.TextTransformer):
    def forward(self, text: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        pooled, tokens = self._encode(text)
        if self.output_tokens:
            return pooled, tokens
        return pooled


class _DualEncoder(DualEncoder):
    @torch.jit.export
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        return self._features(self.visual(image), normalize)

    def _features(self, output: Tensor | tuple[Tensor, Tensor], normalize: bool) -> Tensor:
        features = (
            output if isinstance(output, Tensor) else output[0]
        )  # a script returns one type, so tokens are dropped
        return F.normalize(features, dim=-1) if normalize else features

    def forward(self, image: Tensor | None = None, text: Tensor | None = None) -> Any:
        image_features = self.encode_image(image, normalize=True) if image is not None else None
        text_features = self.encode_text(text, normalize=True) if text is not None else None
        scale = self.logit_scale.exp()
        if self.output_dict:
            output = {"image_features": image_features, "text_features": text_features, "logit_scale": scale}
            if self.logit_bias is not None:
                output["logit_bias"] = self.logit_bias
            return output
        if self.logit_bias is None:
            return image_features, text_features, scale
        return image_features, text_features, scale, self.logit_bias


class _CLIP(core.CLIP):
    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        features, _ = self._encode(text)
        return self._features(features, normalize)


class _CustomTextCLIP(core.CustomTextCLIP):
    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return self._features(self.text(text), normalize)


class _CoCa(core.CoCa):
    @torch.jit.export
    def encode_image(self, images: Tensor, normalize: bool = True) -> Tensor:
        features, _ = self._encode_image(images, normalize)
        return features

    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = True) -> Tensor:
        features, _ = self._encode_text(text, normalize)
        return features

    def _encode_image(self, images: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        output: Tensor | tuple[Tensor, Tensor] = self.visual(images)
        assert not isinstance(output, Tensor)
        features, tokens = output
        return F.normalize(features, dim=-1) if normalize else features, tokens

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        output: Tensor | tuple[Tensor, Tensor] = self.text(text)
        assert not isinstance(output, Tensor)
        features, tokens = output
        return F.normalize(features, dim=-1) if normalize else features, tokens


SCRIPT_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    version.__bases__[0]: version
    for version in (
        *(_Block, _CustomBlock, _Stack, _Decoder, _TextTransformerBase, _TextTransformer),
        *(_VisionTransformer, _ModifiedResNet, _SigLIPVision, _SigLIPTrunk, _PatchEmbed, _TimmTower),
        *(_DualEncoder, _CLIP, _CustomTextCLIP, _CoCa),
    )
}
"""The TorchScript version of each class."""

_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    getattr(base, name): method
    for base, version in SCRIPT_CLASSES.items()
    for name, method in vars(version).items()
    if isinstance(method, FunctionType)
}


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """Copy and pickle a prepared module as one of its own class: TorchScript leaves it in containers of a program."""
    return object.__new__, (type(self).__base__,), self.__dict__


@cache
def _scriptable_class(kind: Any) -> type[nn.Module]:
    """Derive a class with replacements for the methods that `kind` has not overridden; return `kind` if none."""
    methods = {name: getattr(kind, name, None) for name in dir(kind)}
    replacements = {
        name: _REPLACEMENTS[m] for name, m in methods.items() if inspect.isfunction(m) and m in _REPLACEMENTS
    }
    if not any(base.__module__.startswith("oneclip.") for base in kind.__mro__):
        unchanged: type[nn.Module] = kind
        return unchanged
    members: dict[str, Any] = {
        **replacements,
        "__module__": kind.__module__,
        "__annotations__": {"training": bool},  # TorchScript cannot use the annotations of the models
        "__constants__": _TextTransformerBase.__constants__ if issubclass(kind, TextTransformerBase) else (),
        "__jit_unused_properties__": [name for name, m in methods.items() if isinstance(m, property)],
        "__prepare_scriptable__": lambda self: self,
        "__reduce_ex__": _reduce,
    }
    derived: type[nn.Module] = type(kind.__name__, (kind,), members)
    return derived


def scriptable(module: nn.Module) -> nn.Module:
    """Copy a tree of modules with their TorchScript versions; parameters and buffers are shared."""
    if isinstance(module, torch.jit.ScriptModule):
        return module
    copied: nn.Module = object.__new__(_scriptable_class(cast(Any, type(module))))
    copied.__dict__ |= module.__dict__
    copied._modules = {
        name: child if child is None else scriptable(child) for name, child in module._modules.items()
    }
    if isinstance(module, TextTransformerBase):
        copied.__dict__["projects_by_layer"] = isinstance(module.text_projection, nn.Module)
    return copied


for _kind in SCRIPT_CLASSES:
    _kind.__prepare_scriptable__ = scriptable  # type: ignore[attr-defined]  # called by torch.jit.script
    for _name in PYTHON_METHODS:
        if inspect.isfunction(_method := vars(_kind).get(_name)):
            torch.jit.ignore(_method)  # type: ignore[no-untyped-call]
