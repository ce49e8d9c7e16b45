"""SigLIP's image towers: names, sizes, rejected configurations, locks and training."""

import sys
from functools import partial

import pytest
import torch
from torch import nn

from oneclip import zoo
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError, ShapeError
from oneclip.model import SigLIPVision, build_model, build_visual_tower
from oneclip.model.layers import DropPath
from oneclip.model.siglip_names import GELUS, SIZES, TrunkCfg, TrunkSize, is_siglip, published_names

SIGLIP = [name for name in zoo.architectures() if is_siglip(zoo.architecture(name).vision_cfg)]


def numbers(**changes: object) -> CLIPVisionCfg:
    """A small tower, by its numbers."""
    small = {
        "width": 64,
        "layers": 3,
        "head_width": 32,
        "patch_size": 8,
        "image_size": 32,
        "pool_type": "map",
    }
    return CLIPVisionCfg.from_dict({**small, **changes})


def tower(**changes: object) -> SigLIPVision:
    torch.manual_seed(0)
    made = build_visual_tower(64, numbers(**changes))
    assert isinstance(made, SigLIPVision)
    return made


def named(name: str, **changes: object) -> CLIPVisionCfg:
    return CLIPVisionCfg.from_dict(
        {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none", **changes}
    )


def trainable(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_all_published_siglips_have_an_image_tower_of_ours() -> None:
    assert len(SIGLIP) == 28  # 26 of SigLIP's, two of NLLB-SigLIP's
    assert {zoo.architecture(name).vision_cfg.timm_model_name for name in SIGLIP} == set(published_names())


def test_siglips_are_built_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for cfg in map(zoo.architecture, SIGLIP):
        tower = build_on_meta(partial(build_visual_tower, cfg.embed_dim, cfg.vision_cfg))
        assert isinstance(tower, SigLIPVision)
    build_on_meta(lambda: build_model(zoo.architecture("ViT-B-16-SigLIP2")))


@pytest.mark.parametrize("name", published_names())
def test_a_name_has_the_sizes_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = build_on_meta(lambda: timm.create_model(name, num_classes=0, global_pool="map"))
    block, pool = theirs.blocks[0], theirs.attn_pool
    kinds = {"GELU": "none", "GELUTanh": "tanh"}
    assert TrunkCfg.of_name(name) == TrunkCfg(
        TrunkSize(
            theirs.embed_dim,
            len(theirs.blocks),
            block.attn.num_heads,
            TrunkCfg.of_name(name).size.mlp_ratio,  # type: ignore[union-attr]
        ),
        theirs.patch_embed.patch_size[0],
        kinds[type(block.mlp.act).__name__],
        block.norm1.eps,
    )
    assert (pool.num_heads, type(pool.mlp.act)) == (block.attn.num_heads, type(block.mlp.act))
    assert pool.norm.eps == theirs.norm.eps == block.norm1.eps
    assert theirs.patch_embed.img_size == (int(name.rpartition("_")[2]),) * 2


def test_a_tag_behind_the_name_changes_nothing() -> None:
    plain = TrunkCfg.of_name("vit_base_patch16_siglip_224")
    assert plain is not None
    assert TrunkCfg.of_name("vit_base_patch16_siglip_224.webli") == plain


@pytest.mark.parametrize(
    "cfg",
    [
        named("vit_base_patch16_siglip_gap_224"),
        named("vit_base_patch16_siglip_240"),
        named("vit_base_patch16_siglip_224", timm_pool="avg"),
        named("vit_base_patch16_siglip_224", timm_proj="linear"),
        named("vit_base_patch16_siglip_224", timm_model_pretrained=True),
        named("vit_base_patch16_224"),
        CLIPVisionCfg(),
    ],
)
def test_other_configurations_are_not_siglip(cfg: CLIPVisionCfg) -> None:
    assert not is_siglip(cfg)


@pytest.mark.parametrize("image_size", [224, 240])
def test_a_trunk_is_described_by_name_or_by_numbers_to_the_same_trunk(image_size: int) -> None:
    for (size, patch), gelus in GELUS.items():
        for gelu in set(gelus.values()) | {"tanh"}:
            trunk = TrunkCfg(SIZES[size], patch, gelu)
            assert TrunkCfg.of_cfg(trunk.to_cfg(image_size)) == trunk
    assert TrunkCfg(SIZES["base"], 16, "none").to_cfg(240).timm_model_name is None
    assert TrunkCfg(SIZES["base"], 16, "tanh").to_cfg(224).timm_model_name is None
    assert TrunkCfg(SIZES["base"], 16, "none").to_cfg(224).timm_model_name == "vit_base_patch16_siglip_224"


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .*vit_base_patch16_siglip_224"):
        SigLIPVision(named("vit_base_patch16_siglip_225"), 768)


def test_an_embed_dim_other_than_the_width_is_rejected() -> None:
    with pytest.raises(ConfigError, match="embed_dim is 512; the features of this tower have its width, 768"):
        build_visual_tower(512, named("vit_base_patch16_siglip_224"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ls_init_value": 0.1}, r"ls_init_value=0\.1"),
        ({"act_kwargs": {"approximate": "erf"}}, "act_kwargs=.*erf"),
        ({"norm_kwargs": {"bias": False}}, "norm_kwargs=.*bias"),
        ({"patch_size": (8, 4)}, "patch_size of one number"),
        ({"head_width": 24}, "multiple of head_width"),
    ],
)
def test_unknown_fields_are_rejected(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tower(**changes)


def test_quick_gelu_is_rejected_in_a_tower_by_numbers() -> None:
    with pytest.raises(ConfigError, match="see act_kwargs"):
        build_visual_tower(64, numbers(), quick_gelu=True)


def test_an_epsilon_of_ones_own_reaches_every_norm() -> None:
    norms = [m for m in tower(norm_kwargs={"eps": 1e-5}).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 8
    assert {norm.eps for norm in norms} == {1e-5}


def test_an_image_of_another_size_is_rejected() -> None:
    for run in (tower(), tower().forward_intermediates):
        with pytest.raises(ShapeError, match=r"\(B, 3, 32, 32\); found \(2, 3, 48, 48\)"):
            run(torch.zeros(2, 3, 48, 48))


def test_pixels_that_fill_no_patch_are_left_out() -> None:
    made = tower(image_size=35).eval()
    x = torch.randn(1, 3, 35, 35)
    changed = x.clone()
    changed[..., 32:, :] = changed[..., 32:] = 0
    assert torch.equal(made(x), made(changed))


def test_stopping_early_runs_no_block_past_the_last_one_chosen() -> None:
    made, x = tower().eval(), torch.randn(1, 3, 32, 32)
    ran = []
    for index, block in enumerate(made.trunk.blocks):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    made.forward_intermediates(x, indices=[0], stop_early=True, intermediates_only=True)
    assert ran == [0]
    ran.clear()
    whole = made.forward_intermediates(x, indices=[0], stop_early=True)
    assert ran == [0, 1, 2]
    torch.testing.assert_close(whole["image_features"], made(x))


def test_patch_dropout_leaves_a_share_of_the_patches_in_training() -> None:
    made, x = tower(patch_dropout=0.5), torch.randn(2, 3, 32, 32)
    tokens = made.train().forward_intermediates(x, indices=1, output_fmt="NLC")["image_intermediates"][0]
    assert tokens.shape == (2, 8, 64)
    assert made(x).shape == (2, 64)
    with pytest.raises(ConfigError, match="patch dropout removed patches"):
        made.forward_intermediates(x)
    assert made.eval().forward_intermediates(x)["image_intermediates"][0].shape == (2, 64, 4, 4)


def test_dropping_all_patches_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"patch dropout is 1\.0"):
        tower(patch_dropout=1.0)


def test_dropped_paths_leave_samples_out_and_keep_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 3, 2)
    out = drop(x)
    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


def test_paths_are_dropped_the_more_the_deeper() -> None:
    made = tower(timm_drop_path=0.2)
    first, *others = made.trunk.blocks
    assert isinstance(first.drop_path1, nn.Identity)
    assert isinstance(first.drop_path2, nn.Identity)
    assert [block.drop_path1.drop_prob for block in others] == pytest.approx([0.1, 0.2])
    assert [block.drop_path2.drop_prob for block in others] == pytest.approx([0.1, 0.2])


def test_locking_leaves_the_last_groups_trainable() -> None:
    made = tower()
    made.lock(unlocked_groups=9)
    assert trainable(made) == {name for name, _ in made.named_parameters()}
    made.lock(unlocked_groups=2)
    assert {".".join(name.split(".")[1:3]) for name in trainable(made)} >= {"blocks.2", "norm.weight"}
    assert not any(name.startswith("trunk.blocks.1") for name in trainable(made))
    made.lock(unlocked_groups=1)
    assert {name.split(".")[1] for name in trainable(made)} == {"attn_pool"}
    made.lock()
    assert trainable(made) == set()
    with pytest.raises(ConfigError, match="-1 groups"):
        made.lock(unlocked_groups=-1)


def test_a_new_classifier_is_the_last_group_with_the_pooling() -> None:
    made = tower()
    made.trunk.reset_classifier(10)
    made.lock(unlocked_groups=1)
    assert {name.split(".")[1] for name in trainable(made)} == {"attn_pool", "head"}


def test_a_lock_leaves_what_is_frozen_frozen() -> None:
    made = tower()
    made.trunk.attn_pool.latent.requires_grad = False
    made.lock(unlocked_groups=1)
    assert "trunk.attn_pool.latent" not in trainable(made)


def test_checkpointing_runs_each_block_again_in_the_backward_pass() -> None:
    made, x = tower(), torch.randn(1, 3, 32, 32)
    made.set_grad_checkpointing()
    calls = []
    made.trunk.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    made(x).sum().backward()
    assert len(calls) == 2


def test_another_size_of_image_keeps_what_is_frozen_frozen() -> None:
    made = tower()
    made.lock()
    made.set_input_size(48)
    assert made.trunk.pos_embed.shape == (1, 36, 64)
    assert not made.trunk.pos_embed.requires_grad
    assert made(torch.zeros(1, 3, 48, 48)).shape == (1, 64)


def test_images_smaller_than_a_patch_are_rejected() -> None:
    with pytest.raises(ConfigError, match="images of 7 x 32 pixels are smaller than a patch of 8 pixels"):
        tower(image_size=(7, 32))
    made = tower()
    with pytest.raises(ConfigError, match="images of 4 x 4"):
        made.set_input_size(4)
    assert made.image_size == made.trunk.patch_embed.img_size == (32, 32)


def test_half_precision_gives_nearly_the_same_features() -> None:
    made, x = tower().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole = made(x)
        half = made.to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert torch.cosine_similarity(whole, half).min() > 0.99
