"""TorchScript versions of `clip.model`, for `clip.load(jit=True)` and `torch.jit.script`.

The models check their inputs, take shortcuts and support gradient checkpointing, which TorchScript cannot compile. The
classes here replace those methods. TorchScript compiles a copy of the model with these classes and the same tensors.

Shapes: B batch, L tokens, C width, D joint embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip import model as published


class _ScriptBase:
    """Base of all TorchScript versions."""

    # TorchScript reads the annotations of the first class that has any, as types and not as strings
    training: bool
    __jit_unused_properties__ = ("dtype", "pooling")

    def __prepare_scriptable__(self) -> "_ScriptBase":
        """Return the module unchanged; `torch.jit.script` calls this."""
        return self


class ResidualAttentionBlock(_ScriptBase, published.ResidualAttentionBlock):
    def attention(self, x: Tensor) -> Tensor:  # type: ignore[override]
        mask = self.attn_mask
        if mask is not None:
            mask = mask[-x.shape[0] :, -x.shape[0] :].to(dtype=x.dtype, device=x.device)
        out: Tensor = self.attn(x, x, x, need_weights=False, attn_mask=mask)[0]
        return out


class Transformer(_ScriptBase, published.Transformer):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        out: Tensor = self.resblocks(x)
        return out


class VisionTransformer(_ScriptBase, published.VisionTransformer):
    def forward(self, x: Tensor) -> Tensor:
        pooled, _ = self._pool(self.run_blocks(self._embeds(x)))
        if self.proj is not None:
            pooled = pooled @ self.proj
        return pooled

    def _embed_patches(self, x: Tensor) -> Tensor:
        x = self.conv1(x).flatten(2).transpose(1, 2)  # (B, N, C)
        class_token = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        return torch.cat([class_token, x], dim=1) + self.positional_embedding.to(x.dtype)


class Bottleneck(_ScriptBase, published.Bottleneck):
    pass


class ModifiedResNet(_ScriptBase, published.ModifiedResNet):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        out: Tensor = self.attnpool(x)
        return out


class CLIP(_ScriptBase, published.CLIP):
    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.get_logits(image, text)

    @torch.jit.export
    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        dtype = self.visual.conv1.weight.dtype
        features: Tensor = self.visual(image.to(dtype))
        return F.normalize(features, dim=-1) if normalize else features

    @torch.jit.export
    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        dtype = self.transformer.resblocks[0].mlp.c_fc.weight.dtype
        x = self.token_embedding(text).to(dtype)  # (B, L, C)
        x = x + self.positional_embedding[: text.shape[1]].to(dtype)
        x = self.ln_final(self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2))
        pooled = x[torch.arange(x.shape[0], device=x.device), text.argmax(dim=-1)]  # at the end-of-text token
        features: Tensor = pooled @ self.text_projection  # (B, D)
        return F.normalize(features, dim=-1) if normalize else features


SCRIPT_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    version.__bases__[1]: version
    for version in (CLIP, VisionTransformer, ModifiedResNet, Bottleneck, Transformer, ResidualAttentionBlock)
}
"""The TorchScript version of each class."""


def scriptable(module: nn.Module) -> nn.Module:
    """Copy a tree of modules with their TorchScript versions; parameters and buffers are shared."""
    copied: nn.Module = object.__new__(SCRIPT_CLASSES.get(type(module), type(module)))
    copied.__dict__ |= module.__dict__
    copied._modules = {
        name: child if child is None else scriptable(child) for name, child in module._modules.items()
    }
    return copied


published.CLIP.__prepare_scriptable__ = scriptable  # type: ignore[attr-defined]  # called by torch.jit.script
