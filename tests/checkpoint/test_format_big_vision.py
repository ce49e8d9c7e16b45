"""SigLIP checkpoints of big_vision: inferred from their shapes, written back, refused if damaged."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from oneclip import zoo
from oneclip.checkpoint.formats import ForeignCheckpoint, NativeCheckpoint, detect_format
from oneclip.checkpoint.formats.big_vision import BigVision
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_model
from oneclip.model.siglip_names import TrunkCfg, TrunkSize, is_siglip

SIGLIP = [
    name
    for name in zoo.architectures()
    if is_siglip(zoo.architecture(name).vision_cfg) and not zoo.architecture(name).text_cfg.hf_model_name
]


def small_cfg(vocab_size: int = 32000) -> ModelCfg:
    trunk = TrunkCfg.of_cfg(CLIPVisionCfg(layers=2, width=32, head_width=8, patch_size=4, pool_type="map"))
    assert trunk is not None
    text = CLIPTextCfg(
        context_length=8,
        vocab_size=vocab_size,
        width=16,
        heads=2,
        layers=3,
        no_causal_mask=True,
        pool_type="last",
        proj_bias=True,
    )
    return ModelCfg(32, trunk.to_cfg(12), text, custom_text=True, init_logit_bias=-10.0)


def small_model(**options: int) -> NativeCheckpoint:
    torch.manual_seed(0)
    cfg = small_cfg(**options)
    state_dict = {name: torch.randn_like(t) for name, t in build_model(cfg).state_dict().items()}
    return NativeCheckpoint(state_dict, cfg)


def stacked(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers with all blocks of a tower in one tensor, and without the prefix."""
    groups: dict[str, list[Tensor]] = {}
    for name, tensor in state_dict.items():
        parts = name.removeprefix("params/").split("/")
        if any(part.startswith("encoderblock_") for part in parts):
            parts = ["encoderblock" if part.startswith("encoderblock_") else part for part in parts]
            groups.setdefault("/".join(parts), []).append(tensor)
        else:
            groups["/".join(parts)] = [tensor]
    return {k: torch.stack(v) if "/encoderblock/" in k else v[0] for k, v in groups.items()}


def test_a_round_trip_gives_the_same_tensors_bit_for_bit() -> None:
    model = small_model()
    theirs = BigVision().write(model)
    ours = BigVision().read(theirs).state_dict
    assert ours.keys() == model.state_dict.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict.items())
    again = BigVision().write(NativeCheckpoint(ours, model.cfg)).state_dict
    assert again.keys() == theirs.state_dict.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict.items())


def test_stacked_blocks_are_read() -> None:
    model = small_model()
    theirs = ForeignCheckpoint(stacked(BigVision().write(model).state_dict))
    ours = BigVision().read(theirs).state_dict
    assert ours.keys() == model.state_dict.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict.items())


def test_the_configuration_is_inferred_from_shapes() -> None:
    read = BigVision().read(BigVision().write(small_model()))
    assert read.cfg is not None
    assert TrunkCfg.of_cfg(read.cfg.vision_cfg) == TrunkCfg(TrunkSize(32, 2, 4, 4.0), 4, "tanh")
    assert read.cfg.vision_cfg.image_size == 12
    text = read.cfg.text_cfg
    assert (text.width, text.heads, text.layers, text.context_length) == (16, 2, 3, 8)
    assert read.preprocess_cfg is not None
    assert read.preprocess_cfg.size == 12
    assert read.preprocess_cfg.mean == read.preprocess_cfg.std == (0.5, 0.5, 0.5)
    assert (read.preprocess_cfg.resize_mode, read.preprocess_cfg.interpolation) == ("squash", "bicubic")


@pytest.mark.parametrize("name", SIGLIP)
def test_every_published_siglip_is_inferred_from_shapes(name: str) -> None:
    published = zoo.architecture(name)
    ours = build_on_meta(lambda: build_model(published)).state_dict()
    theirs = BigVision().write(NativeCheckpoint(ours, published))
    read = BigVision().read(theirs)
    assert read.cfg is not None
    built = build_on_meta(partial(build_model, read.cfg)).state_dict()
    assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in ours.items()}
    assert detect_format(theirs.state_dict) is not None
    assert detect_format(theirs.state_dict).name == "big_vision"  # type: ignore[union-attr]

    found, expected = read.cfg.text_cfg, published.text_cfg
    assert found.act_kwargs == {
        "approximate": "tanh"
    }  # as in training; open_clip has the exact GELU for SigLIP
    found.act_kwargs = expected.act_kwargs
    if expected.hf_tokenizer_name != found.hf_tokenizer_name:  # one vocabulary under several names
        assert expected.vocab_size == found.vocab_size == 256000
        found.hf_tokenizer_name = expected.hf_tokenizer_name
    assert found == expected
    trunk, known = TrunkCfg.of_cfg(read.cfg.vision_cfg), TrunkCfg.of_cfg(published.vision_cfg)
    assert known is not None
    assert trunk == known._replace(gelu="tanh")
    if name != "ViT-SO400M-14-SigLIP-384":  # 27 patches of 14 pixels are 378 pixels; six more are not used
        assert read.cfg.vision_cfg.image_size == published.vision_cfg.image_size


def test_a_siglip2_gets_its_published_configuration() -> None:
    published = zoo.architecture("ViT-B-32-SigLIP2-256")
    ours = build_on_meta(lambda: build_model(published)).state_dict()
    read = BigVision().read(BigVision().write(NativeCheckpoint(ours, published)))
    assert read.cfg is not None
    assert read.cfg.vision_cfg == published.vision_cfg


def test_an_unknown_vocabulary_gives_no_configuration() -> None:
    read = BigVision().read(BigVision().write(small_model(vocab_size=100)))
    assert read.cfg is None
    assert read.preprocess_cfg is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("params/img/MAPHead_0/probe2", torch.zeros(1), "no tensors named: img/MAPHead_0/probe2"),
        ("params/img/pos_embedding", torch.zeros(1, 8, 32), "8 patches"),
        ("params/img/pos_embedding", torch.zeros(9, 32), "of big_vision"),
        ("params/img/Transformer/encoderblock/x", torch.zeros(10**9, 0), "blocks as first axis"),
        ("params/txt/head/kernel", torch.zeros(16, 31), "different widths"),
        ("params/img/MAPHead_0/MultiHeadDotProductAttention_0/out/kernel", torch.zeros(3), "out/kernel"),
    ],
)
def test_invalid_tensors_are_named(name: str, change: Tensor, message: str) -> None:
    theirs = BigVision().write(small_model()).state_dict
    with pytest.raises(CheckpointError, match=message):
        BigVision().read(ForeignCheckpoint({**theirs, name: change}))


def test_a_missing_part_of_a_tensor_is_named() -> None:
    theirs = dict(BigVision().write(small_model()).state_dict)
    del theirs["params/img/MAPHead_0/MultiHeadDotProductAttention_0/key/kernel"]
    with pytest.raises(CheckpointError, match=r"value/kernel needs .*key/kernel, which is missing"):
        BigVision().read(ForeignCheckpoint(theirs))


def test_other_models_are_not_written() -> None:
    cfg = zoo.architecture("ViT-B-32")
    with pytest.raises(ConfigError, match="only SigLIP's towers"):
        BigVision().write(NativeCheckpoint({}, cfg))
