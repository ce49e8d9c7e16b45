"""A plan gives the numbers of the plain module: for every option of every tower that has one, at every size."""

import threading
from typing import Any

import pytest
import small_towers
import torch
from torch import Tensor

from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, MultimodalCfg
from oneclip.engine.plan import image_plan, text_plan
from oneclip.model import DualEncoder, build_model
from oneclip.model.siglip_names import TrunkCfg

PIXELS, CONTEXT, WORDS = 32, 12, 60
END = WORDS - 1  # the greatest id, where "argmax" pools
EXACT = 1e-5  # relative error of fp32; the lower precisions' bounds are of random weights, which are harder
COSINE = {"bf16": 0.9995, "int8": 0.99}

VISION: dict[str, dict[str, Any]] = {
    "published": {},
    "no_ln_pre": {"no_ln_pre": True},
    "average": {"pool_type": "avg"},
    "average_then_norm": {"pool_type": "avg", "final_ln_after_pool": True},
    "norm_after_pool": {"final_ln_after_pool": True},
    "layer_scale": {"ls_init_value": 0.3},
    "attentional": {"attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "parallel": {"attentional_pool": "parallel", "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "cascade": {"attentional_pool": "cascade", "attn_pooler_queries": 5, "attn_pooler_heads": 2},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
    "tanh": {"act_kwargs": {"approximate": "tanh"}},
    "eps": {"norm_kwargs": {"eps": 1e-3}},
    "uneven_patches": {"patch_size": 12},
    "oblong": {"image_size": (32, 48)},
    "one_layer": {"layers": 1},
    "qk_norm": {"qk_norm": True},
    "cosine": {"scaled_cosine_attn": True},
    "scale_heads": {"scale_heads": True},
    "inner_norm": {"scale_attn_inner": True},
    "attention_norm": {"scale_attn": True},
    "mlp_norm": {"scale_fc": True},
}
TEXT: dict[str, dict[str, Any]] = {
    "published": {},
    "first": {"pool_type": "first"},
    "last": {"pool_type": "last"},
    "eos": {"pool_type": "eos", "eos_id": END},
    "no_causal_mask": {"no_causal_mask": True},
    "projection_bias": {"proj_bias": True},
    "no_projection": {"proj_type": "none"},
    "class_token": {"embed_cls": True, "pad_id": 0},
    "one_layer": {"layers": 1},
    "mlp_norm": {"scale_fc": True},
    "all_switches": {
        "scaled_cosine_attn": True,
        "scale_heads": True,
        "scale_attn_inner": True,
        "scale_attn": True,
        "scale_fc": True,
        "ls_init_value": 0.5,
    },
}


def model_of(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A small model whose weights are all random, norms and scales too."""
    torch.manual_seed(0)
    vision_cfg = CLIPVisionCfg(
        **{
            "layers": 3,
            "width": 64,
            "head_width": 16,
            "patch_size": 8,
            "image_size": PIXELS,
            **(vision or {}),
        }
    )
    text_cfg = CLIPTextCfg(
        **{
            "context_length": CONTEXT,
            "vocab_size": WORDS,
            "width": 64,
            "heads": 4,
            "layers": 3,
            **(text or {}),
        }
    )
    model = build_model(
        ModelCfg(**{"embed_dim": 64, "vision_cfg": vision_cfg, "text_cfg": text_cfg, **changes})
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(
                "in_proj_weight"
            ):  # custom blocks begin with greater weights, near one-hot attention
                torch.nn.init.xavier_uniform_(parameter)
            if parameter.ndim < 2:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "embedding" not in name and "scale" not in name:
                parameter.mul_(2)
    return model.eval()


def pictures(batch: int = 3, size: tuple[int, int] = (PIXELS, PIXELS)) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def captions(batch: int = 5, length: int = CONTEXT) -> Tensor:
    """Rows of all lengths: words, the end of text, padding."""
    ids = torch.randint(1, END, (batch, length), generator=torch.Generator().manual_seed(2))
    for row in range(batch):
        end = max(length - 1 - row, 0)
        ids[row, end], ids[row, end + 1 :] = END, 0
    return ids


def assert_same(found: Tensor | None, expected: Tensor, precision: str = "fp32") -> None:
    assert found is not None, "the plain module was taken"
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    cosine = torch.cosine_similarity(found, expected, dim=-1)
    if precision == "fp32":
        assert error.max() < EXACT, f"relative error {error.max():.1e}"
    else:
        assert cosine.min() > COSINE[precision], f"cosine {cosine.min():.5f}"


def compare(
    model: DualEncoder, precision: str, images: Tensor | None = None, ids: Tensor | None = None
) -> None:
    with torch.inference_mode():
        if images is not None:
            expected = model.encode_image(images, normalize=False)
            assert_same(image_plan(model, precision)(images), expected, precision)
        if ids is not None:
            assert_same(text_plan(model, precision)(ids), model.encode_text(ids, normalize=False), precision)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("option", VISION)
def test_pictures(option: str, quick_gelu: bool, precision: str) -> None:
    if quick_gelu and option == "tanh":
        pytest.skip("QuickGELU takes no arguments")
    model = model_of(VISION[option], quick_gelu=quick_gelu)
    compare(model, precision, images=pictures(size=model.visual.image_size))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("custom", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("option", TEXT)
def test_captions(option: str, custom: bool, quick_gelu: bool, precision: str) -> None:
    if option == "class_token" and not custom:
        pytest.skip("such a tower is a module of its own")
    model = model_of(text=TEXT[option], quick_gelu=quick_gelu, custom_text=custom)
    compare(model, precision, ids=captions())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_so400m_patch14_siglip_224"])
def test_siglip(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip(name, monkeypatch)
    compare(model, precision, images=pictures(), ids=captions())


def small_siglip(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """SigLIP's towers, a few numbers wide; the name decides the activation."""
    whole = TrunkCfg.of_cfg.__func__  # type: ignore[attr-defined]

    def narrow(cls: Any, cfg: CLIPVisionCfg) -> Any:
        trunk = whole(cls, cfg)
        size = trunk.size._replace(width=64, layers=2, heads=4, mlp_ratio=2.0)
        return trunk._replace(patch_size=8, size=size)

    monkeypatch.setattr(TrunkCfg, "of_cfg", classmethod(narrow))
    return model_of(
        {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none"},
        {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
        custom_text=True,
    )


def test_coca_gives_features_without_its_tokens() -> None:
    pooler = {
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    }
    model = model_of(
        pooler,
        {"embed_cls": True, "output_tokens": True, "pad_id": 0},
        multimodal_cfg=MultimodalCfg(
            width=64, heads=4, layers=1, context_length=CONTEXT, attn_pooler_heads=4
        ),
        custom_text=True,
    )
    compare(model, "fp32", images=pictures(), ids=captions())


@pytest.mark.parametrize("layers", [[1, 1, 1, 1]])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_convolutional_tower_runs_channels_last(layers: list[int], precision: str) -> None:
    model = model_of({"layers": layers, "width": 16, "head_width": 16, "patch_size": None, "image_size": 64})
    assert "channels last" in image_plan(model, precision).describe()
    compare(model, precision, images=pictures(size=(64, 64)))


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_any_number_of_rows(batch: int) -> None:
    compare(model_of(), "fp32", images=pictures(batch), ids=captions(batch))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_slices_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.engine.thread_groups.LARGEST", rows * CONTEXT * 256 * 4)
    compare(model_of(), "fp32", images=pictures(7), ids=captions(7))


@pytest.mark.parametrize("length", range(1, CONTEXT + 1))
def test_any_length(length: int) -> None:
    compare(model_of(), "fp32", ids=captions(4, length))


def test_no_rows_are_left_to_the_plain_module() -> None:
    with torch.inference_mode():
        assert image_plan(model_of(), "fp32")(pictures(0)) is None


def test_weights_in_bf16_are_packed_as_they_are() -> None:
    model = model_of()
    with torch.inference_mode():
        expected = model.encode_image(pictures())
        model.bfloat16()
        assert_same(image_plan(model, "bf16")(pictures()), expected, "bf16")


def test_every_thread_gets_the_same_numbers() -> None:
    model = model_of()
    plan, images = image_plan(model, "fp32"), pictures()
    with torch.inference_mode():
        expected = model.encode_image(images)
    found: list[Tensor | None] = []

    def work() -> None:
        for _ in range(5):
            with torch.inference_mode():
                found.append(plan(images))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for features in found:
        assert_same(features, expected)


def test_what_is_not_finite_stays_so() -> None:
    model = model_of()
    images = pictures()
    images[0, 0, 0, 0] = float("nan")
    with torch.inference_mode():
        for precision in ("fp32", "bf16", "int8"):
            features = image_plan(model, precision)(images)
            assert features is not None
            assert features[0].isnan().all(), precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_without_onednn_it_still_works(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.engine.precision.works", lambda *_: False)
    model = model_of(quick_gelu=True)
    assert "torch's own" in image_plan(model, precision).describe()
    compare(model, precision, images=pictures(), ids=captions())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_towers_of_timm_are_run_as_they_are_in_the_plans_precision(precision: str) -> None:
    small_towers.register()
    words = {}
    for family in ("convnext", "vit_clip"):
        tower = {"timm_model_name": small_towers.timm_name(family), "timm_proj": "linear"}
        model = model_of({"image_size": small_towers.PIXELS, **tower}, custom_text=True)
        plan = image_plan(model, precision)
        words[family] = plan.describe()
        if "copy" in words[family]:
            compare(model, precision, images=pictures())
        else:
            with torch.inference_mode():
                assert plan(pictures()) is None
    assert words["convnext"] == f"a copy of TimmTower in {precision}, channels last"
    plain = "the plain module: TimmTower has none of its own"
    assert words["vit_clip"] == (plain if precision == "fp32" else "a copy of TimmTower in bf16")
