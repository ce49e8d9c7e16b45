"""SigLIP checkpoints of its authors' code, big_vision (`.npz` files).

Their shapes: (C, A, E) for the projections to queries, keys and values, (A, E, C) for the projection after attention,
with C width, A heads and E = C / A; (rows, columns, 3, C) for patches; linear layers are (in, out). Newer files stack
all blocks of a tower in one tensor, with the block as first axis. Both are read; one tensor per block is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, Tensors, renamed, transposed
from oneclip.checkpoint.formats.transformers_common import mlp_ratio
from oneclip.config import CLIPTextCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model.siglip_names import TrunkCfg, TrunkSize

ROOT = "params/"  # prefix of the weights in files that also contain other things
STACKED = "/encoderblock/"  # part of the name of a tensor with all blocks
MAX_BLOCKS = 1000
ATTENTION = "MultiHeadDotProductAttention_0"
TANH = {"approximate": "tanh"}  # flax's GELU, which all these models were trained with
INIT_LOGIT_BIAS = -10.0


class BigVision:
    """Format of SigLIP and SigLIP 2 (fixed resolution) in big_vision."""

    name = "big_vision"

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match the names of the two embeddings."""
        names = {name.removeprefix(ROOT) for name in state_dict}
        return {"img/embedding/kernel", "txt/Embed_0/embedding"} <= names

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Convert to our names, and infer the configuration from the shapes.

        Both towers get the tanh approximation of GELU, with which big_vision trains. The tokenizer of a vocabulary
        other than SigLIP's is unknown: such weights get no configuration.

        Raises:
            CheckpointError: for unknown, missing or contradicting tensors.
        """
        tensors = _unstacked(_weights(theirs.state_dict))
        try:
            cfg = _cfg(tensors)
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"not the weights of a SigLIP of big_vision: {error}") from error
        ours = _keys(cfg).read(tensors)
        known = cfg.text_cfg.hf_tokenizer_name is not None
        preprocess = PreprocessCfg(
            size=cfg.vision_cfg.image_size, mean=(0.5,) * 3, std=(0.5,) * 3, resize_mode="squash"
        )
        return NativeCheckpoint(ours, cfg if known else None, preprocess if known else None)

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Convert to their names, with the prefix `params/` and one tensor per block.

        Raises:
            ConfigError: for a model that is not a SigLIP.
        """
        if model.cfg is None or TrunkCfg.of_cfg(model.cfg.vision_cfg) is None:
            raise ConfigError("only SigLIP's towers can be written in the format of big_vision")
        theirs = _keys(model.cfg).write(model.state_dict)
        return ForeignCheckpoint({ROOT + name: tensor for name, tensor in theirs.items()})


def _weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with the prefix `params/`, without it; all tensors if none has it."""
    if not any(name.startswith(ROOT) for name in state_dict):
        return dict(state_dict)
    return {name.removeprefix(ROOT): t for name, t in state_dict.items() if name.startswith(ROOT)}


def _unstacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split tensors (blocks, …) into one tensor per block."""
    single: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if STACKED not in name:
            single[name] = tensor
            continue
        if not tensor.ndim or tensor.shape[0] > MAX_BLOCKS:
            raise CheckpointError(
                f"{name} has shape {tuple(tensor.shape)}; expected at most {MAX_BLOCKS} blocks as first axis"
            )
        before, after = name.split(STACKED, 1)
        for block, part in enumerate(tensor):
            single[f"{before}/encoderblock_{block}/{after}"] = part
    return single


def _cfg(tensors: Mapping[str, Tensor]) -> ModelCfg:
    """Infer the configuration; raises KeyError or ValueError if the shapes are not those of a SigLIP."""
    patch, columns, _, _ = tensors["img/embedding/kernel"].shape
    _, patches, width = tensors["img/pos_embedding"].shape
    if patch != columns or math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"{patches} patches of {patch} x {columns} pixels are not a square image")
    trunk = TrunkCfg(_size(tensors, "img/Transformer", width), patch, TANH["approximate"])
    vocabulary, text_width = tensors["txt/Embed_0/embedding"].shape
    text = _size(tensors, "txt/Encoder_0", text_width)
    head = tensors.get("txt/head/kernel")
    if (text_width if head is None else head.shape[-1]) != width:
        raise ValueError(f"its towers return features of different widths, one of them {width}")
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


def _size(tensors: Mapping[str, Tensor], tower: str, width: int) -> TrunkSize:
    """Infer the sizes of the blocks of a tower."""
    layers = sum(name.startswith(tower) and name.endswith("/LayerNorm_1/scale") for name in tensors)
    first = f"{tower}/encoderblock_0"
    _, heads, _ = tensors[f"{first}/{ATTENTION}/query/kernel"].shape
    _, hidden = tensors[f"{first}/MlpBlock_0/Dense_0/kernel"].shape
    return TrunkSize(width, layers, heads, mlp_ratio(hidden, width))


def _tokenizer(vocabulary: int) -> dict[str, Any]:
    """Return the tokenizer fields of the published SigLIP with this vocabulary size; empty if there is none."""
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
    """Make the key map of a model; it depends on the heads, which the shapes of our tensors do not show."""
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
            renamed("img/embedding/bias", "visual.trunk.patch_embed.proj.bias"),
            renamed("img/pos_embedding", "visual.trunk.pos_embed"),
            *_norm(f"{blocks}/LayerNorm_0", f"{ours}.norm1"),
            *_into_heads(f"{blocks}/{ATTENTION}", qkv, f"{ours}.attn.qkv", image_heads),
            *_from_heads(f"{blocks}/{ATTENTION}/out", f"{ours}.attn.proj", image_heads),
            *_norm(f"{blocks}/LayerNorm_1", f"{ours}.norm2"),
            *_linear(f"{blocks}/MlpBlock_0/Dense_0", f"{ours}.mlp.fc1"),
            *_linear(f"{blocks}/MlpBlock_0/Dense_1", f"{ours}.mlp.fc2"),
            *_norm("img/Transformer/encoder_norm", "visual.trunk.norm"),
            renamed(f"{pool}/probe", f"{our_pool}.latent"),
            *_into_heads(f"{pool}/{ATTENTION}", ("query",), f"{our_pool}.q", image_heads),
            *_into_heads(f"{pool}/{ATTENTION}", kv, f"{our_pool}.kv", image_heads),
            *_from_heads(f"{pool}/{ATTENTION}/out", f"{our_pool}.proj", image_heads),
            *_norm(f"{pool}/LayerNorm_0", f"{our_pool}.norm"),
            *_linear(f"{pool}/MlpBlock_0/Dense_0", f"{our_pool}.mlp.fc1"),
            *_linear(f"{pool}/MlpBlock_0/Dense_1", f"{our_pool}.mlp.fc2"),
            renamed("txt/Embed_0/embedding", "text.token_embedding.weight"),
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
    return renamed(f"{theirs}/scale", f"{ours}.weight"), renamed(f"{theirs}/bias", f"{ours}.bias")


def _linear(theirs: str, ours: str) -> tuple[Rule, Rule]:
    return transposed(f"{theirs}/kernel", f"{ours}.weight"), renamed(f"{theirs}/bias", f"{ours}.bias")


def _into_heads(
    theirs: str, parts: Sequence[str], ours: str, heads: int, separator: str = "."
) -> tuple[Rule, Rule]:
    """Make the rules from kernels (C, A, E) and biases (A, E) of query, key and value to one matrix and one vector."""

    def split(tensors: Tensors) -> Tensors:
        return torch.chunk(tensors[0], len(parts))

    return (
        Rule(
            tuple(f"{theirs}/{part}/kernel" for part in parts),
            (f"{ours}{separator}weight",),
            lambda kernels: (torch.cat([kernel.flatten(1).T for kernel in kernels]),),
            lambda weights: tuple(w.T.reshape(w.shape[1], heads, -1) for w in split(weights)),
        ),
        Rule(
            tuple(f"{theirs}/{part}/bias" for part in parts),
            (f"{ours}{separator}bias",),
            lambda biases: (torch.cat([part.flatten() for part in biases]),),
            lambda biases: tuple(part.reshape(heads, -1) for part in split(biases)),
        ),
    )


def _from_heads(theirs: str, ours: str, heads: int) -> tuple[Rule, Rule]:
    """Make the rules from a kernel (A, E, C) to a matrix (C, A * E)."""
    kernel = _changed(
        f"{theirs}/kernel",
        f"{ours}.weight",
        lambda t: t.flatten(0, 1).T,
        lambda t: t.T.reshape(heads, -1, t.shape[0]),
    )
    return kernel, renamed(f"{theirs}/bias", f"{ours}.bias")
