"""`accelerate` keeps the numbers of a model, and restores the model; encoders use the same plans."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_models import CONTEXT, END, PIXELS, WORDS, random_images, random_texts, small_model
from torch.nn import functional as F

import clip.model
import oneclip
from oneclip.errors import ConfigError, ShapeError, TokenRangeError


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 1e-5)


def test_both_methods_and_the_forward_use_the_plan() -> None:
    model, plain = small_model(), small_model()
    handle = oneclip.accelerate(model)
    handle.image_plan = handle.text_plan = lambda batch: torch.zeros(len(batch), 64)  # type: ignore[assignment]
    with torch.no_grad():
        assert not model.encode_image(random_images()).any()
        assert not model.encode_text(random_texts()).any()
        assert not model(random_images(), random_texts())[0].any()
        handle.remove()
        assert torch.equal(model.encode_image(random_images()), plain.encode_image(random_images()))
        assert torch.equal(model.encode_text(random_texts()), plain.encode_text(random_texts()))


@pytest.mark.parametrize("normalize", [False, True])
def test_features_are_those_of_the_model(normalize: bool) -> None:
    model, plain = small_model(quick_gelu=True), small_model(quick_gelu=True)
    oneclip.accelerate(model)
    with torch.no_grad():
        expected = plain.encode_image(random_images(), normalize=normalize)
        assert same(model.encode_image(image=random_images(), normalize=normalize), expected)
        expected = plain.encode_text(random_texts(), normalize)
        assert same(model.encode_text(random_texts(), normalize), expected)
        for found, wanted in zip(
            model.get_logits(random_images(), random_texts()),
            plain.get_logits(random_images(), random_texts()),
            strict=True,
        ):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_model() -> None:
    model = small_model()
    oneclip.accelerate(model)
    model.encode_image(random_images()).sum().backward()
    assert model.visual.conv1.weight.grad is not None


def test_a_model_of_openais_class_can_be_accelerated() -> None:
    torch.manual_seed(0)
    model = clip.model.CLIP(32, PIXELS, 3, 64, 8, CONTEXT, WORDS, 64, 1, 3).eval()
    with torch.no_grad():
        expected = model(random_images(), random_texts())
        with oneclip.accelerate(model) as handle:
            assert handle.describe()[0].startswith(("oneDNN", "torch's own"))
            for found, wanted in zip(model(random_images(), random_texts()), expected, strict=True):
                assert torch.allclose(found, wanted, atol=1e-4)


def test_features_keep_the_precision_of_the_weights() -> None:
    model = small_model().bfloat16()
    oneclip.accelerate(model)
    with torch.no_grad():
        assert model.encode_image(random_images().bfloat16()).dtype == torch.bfloat16


def test_a_tower_with_output_tokens_still_returns_them() -> None:
    model = small_model({"output_tokens": True})
    oneclip.accelerate(model)
    with torch.no_grad():
        features, tokens = model.encode_image(random_images())
    assert (features.shape, tokens.shape) == ((3, 64), (3, 16, 64))


def test_a_copy_has_a_plan_of_its_own() -> None:
    model = small_model()
    oneclip.accelerate(model)
    with torch.no_grad():
        model.encode_image(random_images())
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other.visual.proj.mul_(2)
            assert same(other.encode_image(random_images()), 2 * model.encode_image(random_images()))


def test_the_state_dict_is_unchanged() -> None:
    model = small_model()
    names = list(model.state_dict())
    with oneclip.accelerate(model), torch.no_grad():
        model.encode_image(random_images())
        assert list(model.state_dict()) == names


def test_wrong_input_raises_the_errors_of_the_model() -> None:
    model = small_model()
    oneclip.accelerate(model)
    with torch.no_grad():
        with pytest.raises(ShapeError):
            model.encode_image(torch.zeros(1, 3, 8, 8))
        with pytest.raises(ShapeError):
            model.encode_text(torch.zeros(1, CONTEXT + 1, dtype=torch.long))
        with pytest.raises(TokenRangeError):
            model.encode_text(torch.full((1, CONTEXT), END + 1))
        assert model.encode_image(random_images(0)).shape == (0, 64)


@pytest.mark.parametrize(
    ("thing", "precision", "message"),
    [("twice", None, "already"), ("layer", None, "found a Linear"), ("model", "int3", "int3")],
)
def test_an_object_that_cannot_be_accelerated_is_named(thing: str, precision: Any, message: str) -> None:
    model: Any = torch.nn.Linear(1, 1) if thing == "layer" else small_model()
    if thing == "twice":
        oneclip.accelerate(model)
    with pytest.raises(ConfigError, match=message):
        oneclip.accelerate(model, precision)


# ------------------------------------------------------------------------------------------------- the encoder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from tiny import write_tiny_model

    return write_tiny_model(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_an_encoder_keeps_the_fp32_module_as_reference(weights: Path, precision: str) -> None:
    encoder = oneclip.load(weights, device="cpu", precision=precision)
    pixels = random_images()
    assert (encoder.precision, next(encoder.model.parameters()).dtype) == (precision, torch.float32)
    with torch.no_grad():
        reference = encoder.model.encode_image(pixels)
    features = encoder.encode_pixels(pixels)
    assert features.dtype == torch.float32
    assert 0.99 < F.cosine_similarity(features, reference).min() < 1


def test_auto_is_one_of_the_precisions(weights: Path) -> None:
    assert oneclip.load(weights, device="cpu", precision="auto").precision in ("fp32", "bf16")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …"),
        MemoryError(),
    ],
    ids=["cpu", "cublas", "cuda", "python"],
)
def test_a_batch_that_does_not_fit_is_halved_and_its_size_remembered(weights: Path, error: Exception) -> None:
    encoder = oneclip.load(weights, device="cpu")
    expected, sizes = encoder.encode_pixels(random_images(7)), []

    def limit(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise error

    encoder.model.visual.register_forward_pre_hook(limit)
    assert same(encoder.encode_pixels(random_images(7)), expected)
    assert sizes == [7, 4, 2, 2, 2, 1]
    sizes.clear()
    assert same(encoder.encode_pixels(random_images(7)), expected)
    assert sizes == [2, 2, 2, 1], "a size that does not fit was tried again"


def test_the_size_of_texts_that_do_not_fit_is_remembered_in_tokens(weights: Path) -> None:
    encoder, shapes = oneclip.load(weights, device="cpu"), []

    def limit(_module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        shapes.append(tuple(inputs[0].shape))
        if inputs[0].numel() > 24:
            raise torch.OutOfMemoryError("out of memory")

    encoder.model.token_embedding.register_forward_pre_hook(limit)
    encoder.encode_tokens(random_texts(4))
    encoder.encode_tokens(random_texts(4)[:, :6])
    assert shapes == [(4, 12), (2, 12), (2, 12), (4, 6)]


def test_one_row_that_does_not_fit_raises(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cpu")

    def fail(_module: torch.nn.Module, _inputs: tuple[torch.Tensor]) -> None:
        raise torch.OutOfMemoryError("out of memory")

    encoder.model.visual.register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode_pixels(random_images(2))
