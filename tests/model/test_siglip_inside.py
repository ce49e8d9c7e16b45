"""Parts of SigLIP's image towers: names, replaced parts, building without random numbers."""

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import open_clip.torchscript  # noqa: F401  # lets torch.jit.script compile the towers
from oneclip.checkpoint.skip_init import build_on_meta, build_uninitialized
from oneclip.config import CLIPVisionCfg, ModelCfg
from oneclip.errors import ConfigError, ShapeError
from oneclip.model import SigLIPVision, build_visual_tower
from oneclip.model.siglip_names import own_image_size, pretrained_cfg, published_names
from oneclip.model.siglip_trunk import SigLIPTrunk

NUMBERS = {
    "width": 64,
    "layers": 3,
    "head_width": 32,
    "patch_size": 8,
    "image_size": 32,
    "pool_type": "map",
}


def tower(**changes: object) -> SigLIPVision:
    torch.manual_seed(0)
    made = build_visual_tower(64, CLIPVisionCfg.from_dict({**NUMBERS, **changes}))
    assert isinstance(made, SigLIPVision)
    return made.eval()


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", published_names())
def test_a_name_is_described_as_timm_describes_it(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = build_on_meta(lambda: timm.create_model(name, num_classes=0, global_pool="map"))
    assert pretrained_cfg(name, own_image_size(name, (0, 0))) == theirs.pretrained_cfg


def test_a_tag_behind_the_name_is_that_of_the_weights() -> None:
    found = pretrained_cfg("vit_base_patch16_siglip_224.webli", (224, 224))
    assert (found["tag"], found["hf_hub_id"]) == ("webli", "timm/vit_base_patch16_siglip_224.webli")


def test_a_trunk_without_a_name_is_described_by_its_size() -> None:
    described = tower(image_size=(32, 48)).trunk.pretrained_cfg
    assert described["input_size"] == (3, 32, 48)
    assert "architecture" not in described


@pytest.mark.parametrize("classes", [0, 5])
def test_layers_are_grouped_as_timm_groups_them(classes: int) -> None:
    models = pytest.importorskip("timm.models")
    trunk = tower().trunk
    trunk.reset_classifier(classes)
    groups = models.group_parameters(trunk, trunk.group_matcher())
    assert trunk.parameter_groups() == [groups[number] for number in sorted(groups)]


def test_without_pooling_and_classifier_the_last_block_is_the_last_group() -> None:
    trunk = tower().trunk
    trunk.reset_classifier(0, "avg")
    assert trunk.parameter_groups()[-1][-1] == "norm.bias"


@pytest.mark.parametrize("name", ["attn_drop", "q_norm", "k_norm", "norm", "proj_drop"])
def test_parts_of_the_attention_without_effect_are_there(name: str) -> None:
    part = getattr(tower().trunk.blocks[0].attn, name)
    assert type(part) is (nn.Dropout if name.endswith("drop") else nn.Identity)


def test_attention_in_steps_shows_its_weights_and_gives_the_same() -> None:
    made, seen = tower(), []
    expected = made(images())
    for block in made.trunk.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(made(images()), expected)
    assert [weights.shape for weights in seen] == [(2, 2, 16, 16)] * 3
    torch.testing.assert_close(seen[0].sum(dim=-1), torch.ones(2, 2, 16))


def test_images_of_other_channels_are_taken_after_the_convolution_was_replaced() -> None:
    made = tower()
    with pytest.raises(ShapeError, match=r"images \(B, 3, 32, 32\); found \(2, 4, 32, 32\)"):
        made(images(channels=4))
    made.trunk.patch_embed.proj = nn.Conv2d(4, 64, 8, 8)
    assert made(images(channels=4)).shape == (2, 64)
    with pytest.raises(ShapeError, match=r"images \(B, 4, 32, 32\); found \(2, 3, 32, 32\)"):
        made(images())


def test_images_of_any_size_are_taken_where_the_patches_are_not_strict() -> None:
    made = tower()
    made.trunk.patch_embed.strict_img_size = False
    assert made.trunk.patch_embed(images(size=48)).shape == (2, 36, 64)
    with pytest.raises(ShapeError, match=r"images \(B, 3, H, W\); found \(3, 48, 48\)"):
        made(images(size=48)[0])


def test_a_classifier_takes_the_place_of_the_features() -> None:
    made = tower()
    made.trunk.reset_classifier(10)
    assert made(images()).shape == (2, 10)
    assert made.forward_intermediates(images())["image_features"].shape == (2, 10)
    assert not made.trunk.get_classifier().training
    made.trunk.reset_classifier(0)
    assert made(images()).shape == (2, 64)


@pytest.mark.parametrize("pool", ["token", "prr", "mean"])
def test_an_unknown_pooling_is_rejected(pool: str) -> None:
    with pytest.raises(ConfigError, match=f"global_pool is '{pool}'"):
        tower().trunk.reset_classifier(0, pool)


def test_attention_pooling_does_not_come_back() -> None:
    trunk = tower().trunk
    trunk.reset_classifier(0, "avg")
    with pytest.raises(ConfigError, match="global_pool is 'map'; expected one of"):
        trunk.reset_classifier(0, "map")
    trunk.reset_classifier(0, "max")


def test_an_unknown_initialization_is_rejected() -> None:
    with pytest.raises(ConfigError, match="mode is 'jax'"):
        tower().trunk.init_weights("jax")


@pytest.mark.parametrize("indices", [[7], 9, 0])
def test_blocks_that_do_not_exist_are_rejected(indices: int | list[int]) -> None:
    with pytest.raises(ConfigError, match="there are 3"):
        tower().trunk.forward_intermediates(images(), indices)


def test_a_name_for_another_size_of_image_has_its_positions_resized() -> None:
    with torch.device("meta"):
        made = SigLIPVision(
            CLIPVisionCfg(timm_model_name="vit_base_patch16_siglip_224", image_size=256), embed_dim=768
        )
    assert made.trunk.patch_embed.img_size == made.image_size == (256, 256)
    assert made.trunk.pos_embed.shape == (1, 256, 768)
    assert made.trunk.pretrained_cfg["input_size"] == (3, 224, 224)


@pytest.mark.parametrize("image_size", [224, 256])
def test_a_blank_model_draws_no_random_numbers(image_size: int) -> None:
    named = {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}
    cfg = ModelCfg.from_dict(
        {
            "embed_dim": 768,
            "vision_cfg": {**named, "image_size": image_size},
            "text_cfg": {"vocab_size": 50, "layers": 1},
        }
    )
    before = torch.get_rng_state()
    blank = build_uninitialized(cfg, lambda made: build_visual_tower(made.embed_dim, made.vision_cfg))
    assert torch.equal(torch.get_rng_state(), before)
    side = image_size // 16
    assert blank.trunk.pos_embed.shape == (1, side * side, 768)
    assert not any(parameter.is_meta for parameter in blank.parameters())


@pytest.mark.parametrize(
    "change",
    [
        lambda trunk: trunk.reset_classifier(5),
        lambda trunk: trunk.reset_classifier(5, "avg"),
        lambda trunk: trunk.reset_classifier(0, ""),
        lambda trunk: trunk.prune_intermediate_layers(1),
        lambda trunk: trunk.set_input_size(32, 4),
    ],
    ids=["classifier", "mean", "tokens", "pruned", "smaller patches"],
)
def test_a_changed_tower_is_scripted_copied_and_pickled(change: Callable[[SigLIPTrunk], object]) -> None:
    made = tower()
    change(made.trunk)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(made), file)
    file.seek(0)
    with torch.no_grad():
        expected = made(images())
        for other in (torch.jit.load(file), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
            torch.testing.assert_close(other(images()), expected)
