"""Apple's original MobileCLIP checkpoints (S1, S2 and B).

The image towers are implemented by timm here. Apple's last layer is a matrix, and timm's is a linear layer; its bias is
set to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats.base import ForeignCheckpoint, NativeCheckpoint
from oneclip.checkpoint.formats.keymap import KeyMap, Rule, renamed, transposed
from oneclip.errors import CheckpointError, ConfigError

IMAGE, TRUNK = "image_encoder.model", "visual.trunk"
TEXT = "text_encoder"
CONVOLUTIONAL = f"{IMAGE}.patch_embed.0.rbr_conv.0.conv.weight"  # S1 and S2, and S0
HYBRID = f"{IMAGE}.patch_emb.0.block.conv.weight"  # B

# Apple's flat list of layers: position in the list to our stage, for blocks, downsampling and positions.
BLOCKS = {0: 0, 2: 1, 4: 2, 7: 3}
DOWNSAMPLING = {1: 1, 3: 2, 5: 3}
POSITIONS = {6: 3}
THIRD_STAGE = {20: "MobileCLIP-S1", 24: "MobileCLIP-S2"}  # number of blocks to architecture


class MobileCLIP:
    """Format of Apple's code, with the branches that are used in training."""

    name = "mobileclip"

    def matches(self, state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> bool:
        """Match the first tensor of the image tower."""
        return CONVOLUTIONAL in state_dict or HYBRID in state_dict

    def read(self, theirs: ForeignCheckpoint) -> NativeCheckpoint:
        """Convert to our names; the architecture is inferred from their names.

        Raises:
            CheckpointError: for unknown or missing tensors.
            ConfigError: for S0, whose text tower contains convolutions.
        """
        name = _architecture(theirs.state_dict)
        ours = KEYS[name == HYBRID_NAME].read(theirs.state_dict)
        weight, bias = _head(name)
        if weight not in ours:
            raise CheckpointError(f"the last layer of the image tower is missing (our {weight})")
        ours[bias] = ours[weight].new_zeros(ours[weight].shape[:1])
        return NativeCheckpoint(ours, zoo.architecture(name), zoo.preprocess_of(name))

    def write(self, model: NativeCheckpoint) -> ForeignCheckpoint:
        """Convert to Apple's names.

        Raises:
            ConfigError: for another architecture, or if the last layer has a bias other than zero.
        """
        name = next((known for known in NAMES if _trunk_of(known) == _trunk(model)), None)
        if name is None:
            raise ConfigError(f"only {', '.join(NAMES)} can be written in Apple's format")
        ours = dict(model.state_dict)
        bias = ours.pop(_head(name)[1], None)
        if bias is not None and bool(bias.any()):
            raise ConfigError(
                "the last layer of the image tower has a bias that is not zero, which Apple's format cannot store"
            )
        return ForeignCheckpoint(KEYS[name == HYBRID_NAME].write(ours))


HYBRID_NAME = "MobileCLIP-B"
NAMES = (*THIRD_STAGE.values(), HYBRID_NAME)


def _architecture(state_dict: Mapping[str, Tensor]) -> str:
    if HYBRID in state_dict:
        return HYBRID_NAME
    blocks = {name.split(".")[4] for name in state_dict if name.startswith(f"{IMAGE}.network.4.")}
    if name := THIRD_STAGE.get(len(blocks)):
        return name
    raise ConfigError(
        f"this MobileCLIP has {len(blocks)} blocks in its third stage; S1 has 20 and S2 24. S0 is not supported: "
        "its text tower contains convolutions"
    )


def _trunk(model: NativeCheckpoint) -> str | None:
    return model.cfg.vision_cfg.timm_model_name if model.cfg is not None else None


def _trunk_of(name: str) -> str | None:
    return zoo.architecture(name).vision_cfg.timm_model_name


def _head(name: str) -> tuple[str, str]:
    layer = f"{TRUNK}.head" if name == HYBRID_NAME else f"{TRUNK}.head.fc"
    return f"{layer}.weight", f"{layer}.bias"


def _squeezed(theirs: str, ours: str, axes: int) -> Rule:
    """Make a rule for a table of positions with additional leading axes of length one."""
    return Rule(
        (theirs,), (ours,), lambda t: (t[0].reshape(t[0].shape[axes:]),), lambda t: (t[0][(None,) * axes],)
    )


def _transformer(theirs: str, ours: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Make the rules for transformer blocks, which the text towers and the image tower of B share."""
    return tuple(
        renamed(f"{theirs}.*.{their_part}.*", f"{ours}.*.{our_part}")
        for their_part, our_part in names.items()
    )


def _branches(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Make the rules for a convolution with branches k x k, 1 x 1 and identity, and squeeze-and-excitation."""
    return (
        renamed(f"{theirs}.rbr_conv.*.*.*", f"{ours}.conv_kxk.*.*.*"),
        renamed(f"{theirs}.rbr_scale.*.*", f"{ours}.conv_scale.*.*"),
        renamed(f"{theirs}.rbr_skip.*", f"{ours}.identity.*"),
        renamed(f"{theirs}.se.reduce.*", f"{ours}.se.fc1.*"),
        renamed(f"{theirs}.se.expand.*", f"{ours}.se.fc2.*"),
    )


def _blocks(theirs: str, ours: str) -> tuple[Rule, ...]:
    """Make the rules for the blocks of one stage, which mix tokens by convolutions or by attention."""
    return (
        *_branches(f"{theirs}.*.token_mixer.norm", f"{ours}.*.token_mixer.norm"),
        *_branches(f"{theirs}.*.token_mixer.mixer", f"{ours}.*.token_mixer.mixer"),
        renamed(f"{theirs}.*.token_mixer.layer_scale", f"{ours}.*.token_mixer.layer_scale.gamma"),
        renamed(f"{theirs}.*.token_mixer.qkv.*", f"{ours}.*.token_mixer.qkv.*"),
        renamed(f"{theirs}.*.token_mixer.proj.*", f"{ours}.*.token_mixer.proj.*"),
        renamed(f"{theirs}.*.norm.*", f"{ours}.*.norm.*"),
        renamed(f"{theirs}.*.convffn.conv.*.*", f"{ours}.*.mlp.conv.*.*"),
        renamed(f"{theirs}.*.convffn.fc1.*", f"{ours}.*.mlp.fc1.*"),
        renamed(f"{theirs}.*.convffn.fc2.*", f"{ours}.*.mlp.fc2.*"),
        renamed(f"{theirs}.*.layer_scale", f"{ours}.*.layer_scale.gamma"),
        renamed(f"{theirs}.*.layer_scale_1", f"{ours}.*.layer_scale_1.gamma"),
        renamed(f"{theirs}.*.layer_scale_2", f"{ours}.*.layer_scale_2.gamma"),
    )


def _downsampling(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        renamed(f"{theirs}.0.lkb_origin.*.*", f"{ours}.0.large_conv.*.*"),
        renamed(f"{theirs}.0.small_conv.*.*", f"{ours}.0.small_conv.*.*"),
        *_branches(f"{theirs}.0", f"{ours}.0")[3:],
        *_branches(f"{theirs}.1", f"{ours}.1"),
    )


_TEXT_RULES = (
    renamed(f"{TEXT}.embedding_layer.weight", "text.token_embedding.weight"),
    _squeezed(f"{TEXT}.positional_embedding.pos_embed.pos_embed", "text.positional_embedding", axes=2),
    *_transformer(
        f"{TEXT}.transformer",
        "text.transformer.resblocks",
        {
            "pre_norm_mha.0": "ln_1.*",
            "pre_norm_mha.1.qkv_proj": "attn.in_proj_*",
            "pre_norm_mha.1.out_proj": "attn.out_proj.*",
            "pre_norm_ffn.0": "ln_2.*",
            "pre_norm_ffn.1": "mlp.c_fc.*",
            "pre_norm_ffn.4": "mlp.c_proj.*",
        },
    ),
    renamed(f"{TEXT}.final_layer_norm.*", "text.ln_final.*"),
    renamed(f"{TEXT}.projection_layer", "text.text_projection"),
    renamed("logit_scale", "logit_scale"),
)
_CONVOLUTIONAL_RULES = (
    *_branches(f"{IMAGE}.patch_embed.*", f"{TRUNK}.stem.*"),
    *(
        rule
        for place, stage in BLOCKS.items()
        for rule in _blocks(f"{IMAGE}.network.{place}", f"{TRUNK}.stages.{stage}.blocks")
    ),
    *(
        rule
        for place, stage in DOWNSAMPLING.items()
        for rule in _downsampling(f"{IMAGE}.network.{place}.proj", f"{TRUNK}.stages.{stage}.downsample.proj")
    ),
    *(
        renamed(f"{IMAGE}.network.{place}.pe.*", f"{TRUNK}.stages.{stage}.pos_emb.pos_enc.*")
        for place, stage in POSITIONS.items()
    ),
    *_branches(f"{IMAGE}.conv_exp", f"{TRUNK}.final_conv"),
    transposed(f"{IMAGE}.head.proj", f"{TRUNK}.head.fc.weight"),
)
_HYBRID_RULES = (
    renamed(f"{IMAGE}.cls_token", f"{TRUNK}.cls_token"),
    _squeezed(f"{IMAGE}.pos_embed.pos_embed.pos_embed", f"{TRUNK}.pos_embed", axes=1),
    renamed(f"{IMAGE}.patch_emb.*.block.conv.*", f"{TRUNK}.patch_embed.backbone.*.conv.*"),
    renamed(f"{IMAGE}.patch_emb.*.block.norm.*", f"{TRUNK}.patch_embed.backbone.*.bn.*"),
    *_transformer(
        f"{IMAGE}.transformer",
        f"{TRUNK}.blocks",
        {
            "pre_norm_mha.0": "norm1.*",
            "pre_norm_mha.1.qkv_proj": "attn.qkv.*",
            "pre_norm_mha.1.out_proj": "attn.proj.*",
            "pre_norm_ffn.0": "norm2.*",
            "pre_norm_ffn.1": "mlp.fc1.*",
            "pre_norm_ffn.4": "mlp.fc2.*",
        },
    ),
    renamed(f"{IMAGE}.post_transformer_norm.*", f"{TRUNK}.norm.*"),
    transposed(f"{IMAGE}.classifier.proj", f"{TRUNK}.head.weight"),
)
KEYS = {
    False: KeyMap((*_CONVOLUTIONAL_RULES, *_TEXT_RULES)),
    True: KeyMap((*_HYBRID_RULES, *_TEXT_RULES)),
}  # True for the hybrid architecture, B
