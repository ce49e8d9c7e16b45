"""Heat maps: the values of each family against its tower, what a call leaves untouched, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import small_towers
import torch
from explain_towers import OWN, encoder_of, small_vit
from tiny import PIXELS, picture, tiny_cfg
from torch.nn import functional as F

import oneclip
from oneclip.config import CLIPVisionCfg
from oneclip.errors import ConfigError, ImageError, TextError
from oneclip.explain import towers
from oneclip.text.generic_texts import generic_texts

TEXTS = ["a dog", "a cat", "a car"]
TIMM_DENSE = ("eva02", "eva02_enormous", "pe_core", "vit_relpos", "vit_clip", "vitamin", "mobileclip_b")
TIMM_WINDOWS = ("convnext", "fastvit", "swin", "resnet")


@pytest.fixture(scope="module")
def pocket() -> oneclip.Encoder:
    return oneclip.load("pocket")


@pytest.fixture(scope="module")
def vit() -> oneclip.Encoder:
    return encoder_of(small_vit())


def timm_encoder(family: str) -> oneclip.Encoder:
    small_towers.register()
    name = small_towers.timm_name(family)
    vision = CLIPVisionCfg(timm_model_name=name, timm_proj="linear", timm_pool="", image_size=PIXELS)
    return encoder_of(tiny_cfg(vision_cfg=vision))


@pytest.mark.parametrize("kind", OWN)
def test_every_own_tower_has_dense_maps_at_the_size_of_the_image(kind: str) -> None:
    maps = encoder_of(OWN[kind]).explain(picture(size=(40, 40)), TEXTS)
    assert maps.method == "dense"
    assert maps.grid.shape == (3, 4, 4)
    assert maps.values.shape == (3, 40, 40)
    assert np.isfinite(maps.values).all()


@pytest.mark.parametrize("family", TIMM_DENSE)
def test_a_transformer_of_timm_has_dense_maps(family: str) -> None:
    maps = timm_encoder(family).explain(picture(size=(40, 40)), TEXTS)
    assert maps.method == "dense"
    assert maps.grid.shape == (3, 4, 4)
    assert np.isfinite(maps.grid).all()


@pytest.mark.parametrize("family", TIMM_WINDOWS)
def test_other_towers_of_timm_have_maps_of_windows(family: str) -> None:
    encoder = timm_encoder(family)
    assert encoder.explain(picture(), TEXTS).method == "windows"
    with pytest.raises(ConfigError, match="no patches that can be compared with texts; use method='windows'"):
        encoder.explain(picture(), TEXTS, method="dense")


@pytest.mark.parametrize("kind", [kind for kind in OWN if kind != "ResNet"])
def test_the_blocks_that_are_read_compute_what_the_tower_computes(kind: str) -> None:
    visual = encoder_of(OWN[kind]).model.visual
    _same_features(visual)


@pytest.mark.parametrize("family", ["vit_clip", "vit_gap"])
def test_the_blocks_of_timm_that_are_read_compute_what_the_tower_computes(family: str) -> None:
    _same_features(timm_encoder(family).model.visual)


@torch.no_grad()
def _same_features(visual: torch.nn.Module) -> None:
    """Compare a tower with its view: tokens before the last block, attention, MLP, pooling."""
    tower = towers.dense_tower(visual, (PIXELS, PIXELS))
    assert isinstance(tower, towers.TokenTower)
    pixels = torch.randn(1, 3, PIXELS, PIXELS)
    for index in range(len(tower.blocks)):
        (x,), grid = tower.embed(pixels, [index])
        assert grid == (4, 4)
        for later in tower.blocks[index:]:
            x = later.finish(x + later.merge(F.scaled_dot_product_attention(*later.split(x))))
        torch.testing.assert_close(tower.pool(x), visual(pixels), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_token_that_is_pooled_alone_has_the_value_path_of_the_pool() -> None:
    for kind in ("SigLIP", "CoCa"):
        tower = towers.dense_tower(encoder_of(OWN[kind]).model.visual)
        assert isinstance(tower, towers.TokenTower)
        tokens = torch.randn(5, 32)
        torch.testing.assert_close(tower.project(tokens), tower.pool(tokens[:, None]), atol=1e-5, rtol=1e-5)


def test_the_values_of_a_resnet_are_the_pool_with_all_attention_on_one_cell() -> None:
    visual = encoder_of(OWN["ResNet"]).model.visual
    tower = towers.dense_tower(visual)
    assert tower is not None
    pixels = torch.randn(1, 3, PIXELS, PIXELS)
    with torch.no_grad():
        features = visual.forward_intermediates(pixels, indices=[4], intermediates_only=True)
        cell = features["image_intermediates"][0].flatten(2).transpose(1, 2)  # (1, 1, C)
        pool = visual.attnpool
        expected = pool.c_proj(pool.v_proj(cell + pool.positional_embedding[1]))
        torch.testing.assert_close(tower.cells(pixels).reshape(1, 1, -1), expected)


def test_the_sensitivity_is_the_gradient_of_the_attention_weights(vit: oneclip.Encoder) -> None:
    """LeGrad by its definition, with explicit attention weights, for the last block."""
    from oneclip.explain.gradient import _block_sensitivity

    tower = towers.dense_tower(vit.model.visual)
    assert isinstance(tower, towers.TokenTower)
    direction = torch.from_numpy(vit.encode_texts("a dog"))
    (x,), _ = tower.embed(torch.randn(1, 3, PIXELS, PIXELS), [1])
    found = _block_sensitivity(tower, 1, x.detach(), direction)
    block = tower.blocks[1]
    q, k, v = block.split(x.detach())
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1).detach().requires_grad_()
    pooled = tower.pool(block.finish(x.detach() + block.merge(weights @ v)))
    similarity = (F.normalize(pooled, dim=-1) * direction).sum()
    (gradient,) = torch.autograd.grad(similarity, weights)
    expected = gradient.clamp(min=0)[:, :, 0, 1:].mean(dim=1)  # of the class token to the patches
    torch.testing.assert_close(found, expected)


def test_each_value_is_the_cosine_less_the_soft_maximum_of_the_others(vit: oneclip.Encoder) -> None:
    maps = vit.explain(picture(), TEXTS)
    tower = towers.dense_tower(vit.model.visual)
    assert tower is not None
    with torch.no_grad():
        cells = F.normalize(tower.cells(vit.preprocess(picture())[None]), dim=-1).numpy()
    cosines = np.einsum("rcd,td->trc", cells, vit.encode_texts(TEXTS)).astype(np.float64)
    scale = vit.logit_scale
    others = np.log((np.exp(scale * cosines[1]) + np.exp(scale * cosines[2])) / 2) / scale
    np.testing.assert_allclose(maps.grid[0], cosines[0] - others, atol=1e-5)


def test_one_text_is_contrasted_with_generic_texts_that_mean_something_else(pocket: oneclip.Encoder) -> None:
    one = pocket.explain(picture(), "a dog")
    others = [text for text in generic_texts() if text != "a dog"]
    several = pocket.explain(picture(), ["a dog", *others])
    assert (one.contrast, several.contrast) == ("generic texts", "the other labels")
    cosines = pocket.encode_texts(others) @ pocket.encode_texts("a dog").T
    if cosines.max() < 0.95:
        np.testing.assert_allclose(one.grid[0], several.grid[0], atol=1e-5)


def test_generic_texts_are_encoded_once_and_again_when_the_model_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = encoder_of(small_vit())
    encoded: list[int] = []
    original = encoder.encode_texts
    monkeypatch.setattr(encoder, "encode_texts", lambda texts: encoded.append(len(texts)) or original(texts))
    for _ in range(2):
        encoder.explain(picture(), "a dog")
    assert encoded.count(len(generic_texts())) == 1
    with torch.no_grad():
        encoder.model.token_embedding.weight.mul_(1.5)
    encoder.explain(picture(), "a dog")
    assert encoded.count(len(generic_texts())) == 2


def test_the_scores_are_the_similarity_of_the_whole_image(vit: oneclip.Encoder) -> None:
    maps = vit.explain(picture(), TEXTS, template="a photo of {}")
    expected = vit.similarity([picture()], [f"a photo of {text}" for text in TEXTS])[0]
    np.testing.assert_allclose(maps.scores, expected, atol=1e-6)


def test_a_larger_input_has_finer_maps(vit: oneclip.Encoder) -> None:
    assert vit.explain(picture(), TEXTS, image_size=64).grid.shape == (3, 8, 8)
    assert vit.explain(picture(), TEXTS, image_size=(32, 64), method="gradient").grid.shape == (3, 4, 8)


def test_positions_are_those_of_the_upright_image(pocket: oneclip.Encoder, tmp_path: object) -> None:
    from pathlib import Path

    image = picture(3, (120, 80))
    exif = image.getexif()
    exif[0x0112] = 6  # the upright image is turned by 90 degrees
    path = Path(str(tmp_path)) / "turned.png"
    image.save(path, exif=exif)
    maps = pocket.explain(path, TEXTS)
    assert maps.values.shape == (3, 120, 80)
    assert maps.image.size == (80, 120)


@pytest.mark.parametrize("method", ["dense", "gradient", "windows"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["class token", "SigLIP"])
def test_the_module_is_left_as_it_was(kind: str, method: str, training: bool) -> None:
    encoder = encoder_of(OWN[kind])
    model = encoder.model.train(training)
    model.visual.requires_grad_(requires_grad=training)
    before = _state(model)
    encoder.explain(picture(), TEXTS, method=method)
    if method != "windows":
        encoder.explain(picture(), TEXTS, method=method, image_size=64)
    _check_unchanged(model, before)


def test_batch_norms_in_training_mode_keep_their_statistics() -> None:
    encoder = encoder_of(OWN["ResNet"])
    encoder.model.visual.train()
    before = _state(encoder.model)
    encoder.explain(picture(), TEXTS, method="dense")
    _check_unchanged(encoder.model, before)


def test_the_module_is_left_as_it_was_after_an_exception(
    vit: oneclip.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _state(vit.model)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(vit.model.visual.ln_post, "forward", fail)
    for method in ("dense", "gradient"):
        with pytest.raises(RuntimeError, match="out of memory"):
            vit.explain(picture(), TEXTS, method=method)  # type: ignore[arg-type]
    monkeypatch.undo()
    _check_unchanged(vit.model, before)


def test_maps_of_several_threads_are_those_of_one(vit: oneclip.Encoder) -> None:
    before = _state(vit.model)
    jobs = [(seed, method) for seed in range(4) for method in ("dense", "gradient")]
    alone = [vit.explain(picture(seed), TEXTS, method=method).grid for seed, method in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: vit.explain(picture(job[0]), TEXTS, method=job[1]).grid, jobs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    _check_unchanged(vit.model, before)


def _state(model: torch.nn.Module) -> list[object]:
    tensors = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict().items()}
    modes = [
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    ]
    gradients = [(p.requires_grad, p.grad is None, len(p._backward_hooks or ())) for p in model.parameters()]
    return [tensors, modes, gradients]


def _check_unchanged(model: torch.nn.Module, before: list[object]) -> None:
    tensors, modes, gradients = before
    now = _state(model)
    assert now[1:] == [modes, gradients]
    for name, (_, copied) in tensors.items():  # type: ignore[attr-defined]
        assert torch.equal(model.state_dict()[name], copied), name


def test_texts_that_cannot_be_compared_are_refused(vit: oneclip.Encoder) -> None:
    for texts, message in (([], "no labels given"), (["a", " "], "is empty"), (["a", "a"], "given twice")):
        with pytest.raises(TextError, match=message):
            vit.explain(picture(), texts)


def test_a_file_that_is_no_image_is_refused(vit: oneclip.Encoder) -> None:
    with pytest.raises(ImageError):
        vit.explain(b"no image", TEXTS)


def test_an_unknown_method_is_refused(vit: oneclip.Encoder) -> None:
    with pytest.raises(
        ConfigError, match="method is 'gradcam'; expected one of auto, dense, gradient, windows"
    ):
        vit.explain(picture(), TEXTS, method="gradcam")  # type: ignore[arg-type]


def test_a_tower_without_plain_attention_has_no_gradient(pocket: oneclip.Encoder) -> None:
    with pytest.raises(ConfigError, match="use method='dense' or method='windows'"):
        pocket.explain(picture(), TEXTS, method="gradient")


def test_windows_take_no_image_size(vit: oneclip.Encoder) -> None:
    with pytest.raises(ConfigError, match="image_size is 64, but windows have the size of the model"):
        vit.explain(picture(), TEXTS, method="windows", image_size=64)


@pytest.mark.parametrize("size", [65.5, "a", 0, -64, True, (64,), (64, 64.5), (64, 64, 64)])
def test_an_image_size_that_is_no_size_is_refused(vit: oneclip.Encoder, size: Any) -> None:
    with pytest.raises(ConfigError, match=r"image_size is .*; expected an integer of 1 or more, or"):
        vit.explain(picture(), TEXTS, image_size=size)


def test_an_input_that_is_no_multiple_of_the_patches_is_refused(vit: oneclip.Encoder) -> None:
    with pytest.raises(
        ConfigError, match="image_size is 30 x 30; expected multiples of the patches of 8 x 8"
    ):
        vit.explain(picture(), TEXTS, image_size=30)
