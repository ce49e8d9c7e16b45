"""big_vision's SigLIP checkpoints, the authors' own (`.npz`): its names of tensors to ours, and back.

Shapes there: (C, A, E) for what makes queries, keys and values, (A, E, C) for what follows attention, with C width, A
heads and E = C / A; (rows, columns, 3, C) for patches; linear layers are (in, out). Newer files have all blocks of a
tower in one tensor, block first; these are read, and written a block a tensor, as in the older ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats.base import Converted, Published
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, Tensors, same, transposed
from oneclip.checkpoint.formats.transformers_common import mlp_ratio
from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model.siglip_names import Size, TrunkCfg

ROOT = "params/"  # before all names of weights, in files that hold other things too
STACKED = "/encoderblock/"  # in names of tensors that hold all blocks
MOST_BLOCKS = 1000
ATTENTION = "MultiHeadDotProductAttention_0"
TANH = {"approximate": "tanh"}  # flax's GELU, which all these models are trained with
INIT_LOGIT_BIAS = -10.0


class BigVision:
    """SigLIP and SigLIP 2 at a fixed resolution, as big_vision saves them."""

    name = "big_vision"

    def recognises(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """By the names of the two embeddings."""
        names = {name.removeprefix(ROOT) for name in state_dict}
        return {"img/embedding/kernel", "txt/Embed_0/embedding"} <= names

    def read(
        self,
        state_dict: Mapping[str, Tensor],
        config: Mapping[str, Any] | None = None,
        preprocessor: Mapping[str, Any] | None = None,
    ) -> Converted:
        """Theirs to ours, with a configuration read off the shapes.

        Both towers get the GELU that big_vision trains with, its tanh approximation. Of weights whose vocabulary is
        none of SigLIP's the tokenizer cannot be known: they get no configuration.

        Raises:
            CheckpointError: for tensors that do not belong there, are missing, or contradict each other.
        """
        theirs = _one_by_one(_weights(state_dict))
        try:
            cfg = _cfg(theirs)
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"these are not the weights of a SigLIP of big_vision's: {error}"
            ) from error
        ours = _keys(cfg).read(theirs)
        known = cfg.text_cfg.hf_tokenizer_name is not None
        preprocess = PreprocessCfg(
            size=cfg.vision_cfg.image_size, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash"
        )
        return Converted(ours, cfg if known else None, preprocess if known else None)

    def write(self, model: Converted) -> Published:
        """Ours to theirs, below `params/`, a block a tensor.

        Raises:
            ConfigError: for a model that is no SigLIP.
        """
        if model.cfg is None or TrunkCfg.of_cfg(model.cfg.vision_cfg) is None:
            raise ConfigError("big_vision's names are written for SigLIP's towers only")
        theirs = _keys(model.cfg).write(model.state_dict)
        return Published({ROOT + name: tensor for name, tensor in theirs.items()})


def _weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below `params/`, where there is such a root, without it."""
    if not any(name.startswith(ROOT) for name in state_dict):
        return dict(state_dict)
    return {name.removeprefix(ROOT): t for name, t in state_dict.items() if name.startswith(ROOT)}


def _one_by_one(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks that share tensors, (blocks, …) each, taken apart."""
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if STACKED not in name:
            apart[name] = tensor
            continue
        if not tensor.ndim or tensor.shape[0] > MOST_BLOCKS:
            raise CheckpointError(f"{name} of shape {tuple(tensor.shape)} is no stack of a tower's blocks")
        before, after = name.split(STACKED, 1)
        for block, part in enumerate(tensor):
            apart[f"{before}/encoderblock_{block}/{after}"] = part
    return apart


def _cfg(tensors: Mapping[str, Tensor]) -> ModelCfg:
    """What the shapes say. KeyError and ValueError where they say nothing."""
    patch, columns, _, _ = tensors["img/embedding/kernel"].shape
    _, patches, width = tensors["img/pos_embedding"].shape
    if patch != columns or math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"{patches} patches of {patch} x {columns} pixels make no square picture")
    trunk = TrunkCfg(_size(tensors, "img/Transformer", width), patch, TANH["approximate"])
    vocabulary, text_width = tensors["txt/Embed_0/embedding"].shape
    text = _size(tensors, "txt/Encoder_0", text_width)
    head = tensors.get("txt/head/kernel")
    if (text_width if head is None else head.shape[-1]) != width:
        raise ValueError(f"its towers give features of two widths, one of them {width}")
    return ModelCfg(
        embed_dim=width,
        vision_cfg=trunk.to_cfg(image_size=math.isqrt(patches) * patch),
        text_cfg=CLIPTextCfg(
            context_length=tensors["txt/pos_embedding"].shape[1],
            vocab_size=vocabulary,
            width=text.width,
            heads=text.heads,
            layers=text.layers,
            mlp_ratio=text.mlp_ratio,
            no_causal_mask=True,
            pool_type="last",
            proj_bias=head is not None,
            proj_type="none" if head is None else "linear",
            act_kwargs=dict(TANH),
            norm_kwargs={"eps": trunk.eps},
            **_tokenizer(vocabulary),
        ),
        custom_text=True,
        init_logit_bias=INIT_LOGIT_BIAS,
    )


def _size(tensors: Mapping[str, Tensor], tower: str, width: int) -> Size:
    """The numbers of the blocks of a tower."""
    layers = sum(name.startswith(tower) and name.endswith("/LayerNorm_1/scale") for name in tensors)
    first = f"{tower}/encoderblock_0"
    _, heads, _ = tensors[f"{first}/{ATTENTION}/query/kernel"].shape
    _, hidden = tensors[f"{first}/MlpBlock_0/Dense_0/kernel"].shape
    return Size(width, layers, heads, mlp_ratio(hidden, width))


def _tokenizer(vocabulary: int) -> dict[str, Any]:
    """The fields of a text configuration that say how captions become ids, by the number of ids."""
    for name in zoo.architectures():
        cfg = zoo.architecture(name)
        if TrunkCfg.of_cfg(cfg.vision_cfg) is not None and cfg.text_cfg.vocab_size == vocabulary:
            text = cfg.text_cfg
            return {
                "hf_tokenizer_name": text.hf_tokenizer_name,
                "tokenizer_mode": text.tokenizer_mode,
                "tokenizer_kwargs": text.tokenizer_kwargs,
            }
    return {}


def _keys(cfg: ModelCfg) -> KeyMap:
    """The key map of a model; how its attention divides into heads is not in the shapes of our tensors."""
    trunk = TrunkCfg.of_cfg(cfg.vision_cfg)
    image_heads = trunk.size.heads if trunk is not None else 1
    blocks, ours = "img/Transformer/encoderblock_*", "visual.trunk.blocks.*"
    pool, our_pool = "img/MAPHead_0", "visual.trunk.attn_pool"
    text, our_text = "txt/Encoder_0/encoderblock_*", "text.transformer.resblocks.*"
    qkv, kv = ("query", "key", "value"), ("key", "value")
    return KeyMap(
        (
            _changed(
                "img/embedding/kernel",
                "visual.trunk.patch_embed.proj.weight",
                lambda t: t.permute(3, 2, 0, 1),
                lambda t: t.permute(2, 3, 1, 0),
            ),
            same("img/embedding/bias", "visual.trunk.patch_embed.proj.bias"),
            same("img/pos_embedding", "visual.trunk.pos_embed"),
            *_norm(f"{blocks}/LayerNorm_0", f"{ours}.norm1"),
            *_into_heads(f"{blocks}/{ATTENTION}", qkv, f"{ours}.attn.qkv", image_heads),
            *_from_heads(f"{blocks}/{ATTENTION}/out", f"{ours}.attn.proj", image_heads),
            *_norm(f"{blocks}/LayerNorm_1", f"{ours}.norm2"),
            *_linear(f"{blocks}/MlpBlock_0/Dense_0", f"{ours}.mlp.fc1"),
            *_linear(f"{blocks}/MlpBlock_0/Dense_1", f"{ours}.mlp.fc2"),
            *_norm("img/Transformer/encoder_norm", "visual.trunk.norm"),
            same(f"{pool}/probe", f"{our_pool}.latent"),
            *_into_heads(f"{pool}/{ATTENTION}", ("query",), f"{our_pool}.q", image_heads),
            *_into_heads(f"{pool}/{ATTENTION}", kv, f"{our_pool}.kv", image_heads),
            *_from_heads(f"{pool}/{ATTENTION}/out", f"{our_pool}.proj", image_heads),
            *_norm(f"{pool}/LayerNorm_0", f"{our_pool}.norm"),
            *_linear(f"{pool}/MlpBlock_0/Dense_0", f"{our_pool}.mlp.fc1"),
            *_linear(f"{pool}/MlpBlock_0/Dense_1", f"{our_pool}.mlp.fc2"),
            same("txt/Embed_0/embedding", "text.token_embedding.weight"),
            _changed("txt/pos_embedding", "text.positional_embedding", lambda t: t[0], lambda t: t[None]),
            *_norm(f"{text}/LayerNorm_0", f"{our_text}.ln_1"),
            *_into_heads(f"{text}/{ATTENTION}", qkv, f"{our_text}.attn.in_proj", cfg.text_cfg.heads, "_"),
            *_from_heads(f"{text}/{ATTENTION}/out", f"{our_text}.attn.out_proj", cfg.text_cfg.heads),
            *_norm(f"{text}/LayerNorm_1", f"{our_text}.ln_2"),
            *_linear(f"{text}/MlpBlock_0/Dense_0", f"{our_text}.mlp.c_fc"),
            *_linear(f"{text}/MlpBlock_0/Dense_1", f"{our_text}.mlp.c_proj"),
            *_norm("txt/Encoder_0/encoder_norm", "text.ln_final"),
            *_linear("txt/head", "text.text_projection"),
            _changed("b", "logit_bias", lambda t: t.reshape(()), lambda t: t.reshape(1)),
            _changed("t", "logit_scale", lambda t: t.reshape(()), lambda t: t.reshape(1)),
        )
    )


def _changed(
    theirs: str, ours: str, read: Callable[[Tensor], Tensor], write: Callable[[Tensor], Tensor]
) -> Rule:
    return Rule(
        (theirs,), (ours,), lambda t: (read(t[0]).contiguous(),), lambda t: (write(t[0]).contiguous(),)
    )


def _norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return same(f"{theirs}/scale", f"{ours}.weight"), same(f"{theirs}/bias", f"{ours}.bias")


def _linear(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return transposed(f"{theirs}/kernel", f"{ours}.weight"), same(f"{theirs}/bias", f"{ours}.bias")


def _into_heads(
    theirs: str, parts: Sequence[str], ours: str, heads: int, mark: str = "."
) -> tuple[Rule, Rule]:
    """Kernels (C, A, E) and biases (A, E) of some of query, key and value to one matrix (… C, C) and one vector."""

    def split(tensors: Tensors) -> Tensors:
        return torch.chunk(tensors[0], len(parts))

    return (
        Rule(
            tuple(f"{theirs}/{part}/kernel" for part in parts),
            (f"{ours}{mark}weight",),
            lambda kernels: (torch.cat([kernel.flatten(1).T for kernel in kernels]),),
            lambda weights: tuple(w.T.reshape(w.shape[1], heads, -1) for w in split(weights)),
        ),
        Rule(
            tuple(f"{theirs}/{part}/bias" for part in parts),
            (f"{ours}{mark}bias",),
            lambda biases: (torch.cat([part.flatten() for part in biases]),),
            lambda biases: tuple(part.reshape(heads, -1) for part in split(biases)),
        ),
    )


def _from_heads(theirs: str, ours: str, heads: int) -> tuple[Rule, Rule]:
    """A kernel (A, E, C) to a matrix (C, A E)."""
    kernel = _changed(
        f"{theirs}/kernel",
        f"{ours}.weight",
        lambda t: t.flatten(0, 1).T,
        lambda t: t.T.reshape(heads, -1, t.shape[0]),
    )
    return kernel, same(f"{theirs}/bias", f"{ours}.bias")
