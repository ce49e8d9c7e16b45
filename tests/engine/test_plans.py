"""Plans give the numbers of the plain module, for every option of every tower and every batch size."""

import threading

import pytest
import small_towers
import torch
from engine_models import (
    CONTEXT,
    TEXT,
    VISION,
    assert_same,
    compare,
    random_images,
    random_texts,
    small_model,
    small_siglip,
)
from torch import Tensor

from oneclip.config import MultimodalCfg
from oneclip.engine.plan import make_image_plan


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("option", VISION)
def test_every_option_of_the_image_tower(option: str, quick_gelu: bool, precision: str) -> None:
    if quick_gelu and option == "tanh":
        pytest.skip("QuickGELU takes no arguments")
    model = small_model(VISION[option], quick_gelu=quick_gelu)
    compare(model, precision, images=random_images(size=model.visual.image_size))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("custom", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("option", TEXT)
def test_every_option_of_the_text_tower(option: str, custom: bool, quick_gelu: bool, precision: str) -> None:
    if option == "class_token" and not custom:
        pytest.skip("such a tower is always a separate module")
    model = small_model(text=TEXT[option], quick_gelu=quick_gelu, custom_text=custom)
    compare(model, precision, ids=random_texts())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("name", ["vit_base_patch16_siglip_224", "vit_so400m_patch14_siglip_224"])
def test_both_towers_of_siglip(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip(name, monkeypatch)
    compare(model, precision, images=random_images(), ids=random_texts())


def test_coca_gives_features_without_its_tokens() -> None:
    pooler = {
        "attentional_pool": True,
        "attn_pooler_queries": 4,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    }
    model = small_model(
        pooler,
        {"embed_cls": True, "output_tokens": True, "pad_id": 0},
        multimodal_cfg=MultimodalCfg(
            width=64, heads=4, layers=1, context_length=CONTEXT, attn_pooler_heads=4
        ),
        custom_text=True,
    )
    compare(model, "fp32", images=random_images(), ids=random_texts())


@pytest.mark.parametrize("layers", [[1, 1, 1, 1]])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_convolutional_tower_runs_channels_last(layers: list[int], precision: str) -> None:
    model = small_model(
        {"layers": layers, "width": 16, "head_width": 16, "patch_size": None, "image_size": 64}
    )
    assert "channels last" in make_image_plan(model, precision).describe()
    compare(model, precision, images=random_images(size=(64, 64)))


@pytest.mark.parametrize("batch", [1, 2, 7, 33])
def test_every_batch_size(batch: int) -> None:
    compare(small_model(), "fp32", images=random_images(batch), ids=random_texts(batch))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_chunks_change_nothing(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.engine.thread_groups.MAX_ACTIVATION_BYTES", rows * CONTEXT * 256 * 4)
    compare(small_model(), "fp32", images=random_images(7), ids=random_texts(7))


@pytest.mark.parametrize("length", range(1, CONTEXT + 1))
def test_every_text_length(length: int) -> None:
    compare(small_model(), "fp32", ids=random_texts(4, length))


def test_an_empty_batch_has_no_plan() -> None:
    with torch.inference_mode():
        assert make_image_plan(small_model(), "fp32")(random_images(0)) is None


def test_weights_in_bf16_are_packed_without_conversion() -> None:
    model = small_model()
    with torch.inference_mode():
        expected = model.encode_image(random_images())
        model.bfloat16()
        assert_same(make_image_plan(model, "bf16")(random_images()), expected, "bf16")


def test_every_thread_gets_the_same_numbers() -> None:
    model = small_model()
    plan, images = make_image_plan(model, "fp32"), random_images()
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


def test_input_that_is_not_finite_gives_features_that_are_not_finite() -> None:
    model = small_model()
    images = random_images()
    images[0, 0, 0, 0] = float("nan")
    with torch.inference_mode():
        for precision in ("fp32", "bf16", "int8"):
            features = make_image_plan(model, precision)(images)
            assert features is not None
            assert features[0].isnan().all(), precision


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_plans_work_without_onednn(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneclip.engine.precision.is_supported", lambda *_: False)
    model = small_model(quick_gelu=True)
    assert "torch's own" in make_image_plan(model, precision).describe()
    compare(model, precision, images=random_images(), ids=random_texts())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_towers_of_timm_run_in_the_precision_of_the_plan(precision: str) -> None:
    small_towers.register()
    words = {}
    for family in ("convnext", "vit_clip"):
        tower = {"timm_model_name": small_towers.timm_name(family), "timm_proj": "linear"}
        model = small_model({"image_size": small_towers.PIXELS, **tower}, custom_text=True)
        plan = make_image_plan(model, precision)
        words[family] = plan.describe()
        if "copy" in words[family]:
            compare(model, precision, images=random_images())
        else:
            with torch.inference_mode():
                assert plan(random_images()) is None
    assert words["convnext"] == f"a copy of TimmTower in {precision}, channels last"
    plain = "the plain module: TimmTower has no plan"
    assert words["vit_clip"] == (plain if precision == "fp32" else "a copy of TimmTower in bf16")
