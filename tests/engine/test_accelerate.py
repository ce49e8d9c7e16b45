"""`accelerate` changes how a model computes, not what: in either facade, and until it is taken back."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from test_plans import CONTEXT, END, PIXELS, WORDS, captions, model_of, pictures
from torch.nn import functional as F

import clip.model
import oneclip
from oneclip.errors import ConfigError, ShapeError, TokenRangeError


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 1e-5)


def test_both_methods_and_the_forward_take_the_plan() -> None:
    model, plain = model_of(), model_of()
    handle = oneclip.accelerate(model)
    handle.image_plan = handle.text_plan = lambda batch: torch.zeros(len(batch), 64)  # type: ignore[assignment]
    with torch.no_grad():
        assert not model.encode_image(pictures()).any()
        assert not model.encode_text(captions()).any()
        assert not model(pictures(), captions())[0].any()
        handle.remove()
        assert torch.equal(model.encode_image(pictures()), plain.encode_image(pictures()))
        assert torch.equal(model.encode_text(captions()), plain.encode_text(captions()))


@pytest.mark.parametrize("normalize", [False, True])
def test_the_numbers_are_the_models(normalize: bool) -> None:
    model, plain = model_of(quick_gelu=True), model_of(quick_gelu=True)
    oneclip.accelerate(model)
    with torch.no_grad():
        expected = plain.encode_image(pictures(), normalize=normalize)
        assert same(model.encode_image(image=pictures(), normalize=normalize), expected)
        expected = plain.encode_text(captions(), normalize)
        assert same(model.encode_text(captions(), normalize), expected)
        for found, wanted in zip(
            model.get_logits(pictures(), captions()), plain.get_logits(pictures(), captions()), strict=True
        ):
            assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_are_the_models() -> None:
    model = model_of()
    oneclip.accelerate(model)
    model.encode_image(pictures()).sum().backward()
    assert model.visual.conv1.weight.grad is not None


def test_openais_class_takes_it_too() -> None:
    torch.manual_seed(0)
    model = clip.model.CLIP(32, PIXELS, 3, 64, 8, CONTEXT, WORDS, 64, 1, 3).eval()
    with torch.no_grad():
        expected = model(pictures(), captions())
        with oneclip.accelerate(model) as handle:
            assert handle.describe()[0].startswith(("oneDNN", "torch's own"))
            for found, wanted in zip(model(pictures(), captions()), expected, strict=True):
                assert torch.allclose(found, wanted, atol=1e-4)


def test_features_keep_the_precision_of_the_weights() -> None:
    model = model_of().bfloat16()
    oneclip.accelerate(model)
    with torch.no_grad():
        assert model.encode_image(pictures().bfloat16()).dtype == torch.bfloat16


def test_tokens_that_were_asked_for_still_come() -> None:
    model = model_of({"output_tokens": True})
    oneclip.accelerate(model)
    with torch.no_grad():
        features, tokens = model.encode_image(pictures())
    assert (features.shape, tokens.shape) == ((3, 64), (3, 16, 64))


def test_a_copy_has_a_plan_of_its_own() -> None:
    model = model_of()
    oneclip.accelerate(model)
    with torch.no_grad():
        model.encode_image(pictures())
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other.visual.proj.mul_(2)
            assert same(other.encode_image(pictures()), 2 * model.encode_image(pictures()))


def test_the_state_dict_is_as_it_was() -> None:
    model = model_of()
    names = list(model.state_dict())
    with oneclip.accelerate(model), torch.no_grad():
        model.encode_image(pictures())
        assert list(model.state_dict()) == names


def test_wrong_input_is_refused_as_before() -> None:
    model = model_of()
    oneclip.accelerate(model)
    with torch.no_grad():
        with pytest.raises(ShapeError):
            model.encode_image(torch.zeros(1, 3, 8, 8))
        with pytest.raises(ShapeError):
            model.encode_text(torch.zeros(1, CONTEXT + 1, dtype=torch.long))
        with pytest.raises(TokenRangeError):
            model.encode_text(torch.full((1, CONTEXT), END + 1))
        assert model.encode_image(pictures(0)).shape == (0, 64)


@pytest.mark.parametrize(
    ("thing", "precision", "message"),
    [("twice", None, "already"), ("layer", None, "found a Linear"), ("model", "int3", "int3")],
)
def test_what_cannot_be_accelerated_is_named(thing: str, precision: Any, message: str) -> None:
    model: Any = torch.nn.Linear(1, 1) if thing == "layer" else model_of()
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
    pixels = pictures()
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
def test_a_batch_that_does_not_fit_is_halved_and_its_size_remembered(
    weights: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = oneclip.load(weights, device="cpu")
    expected = encoder.encode_pixels(pictures(7))
    whole, sizes = encoder.towers.plans[0], []

    def small(batch: torch.Tensor) -> torch.Tensor | None:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return whole(batch)

    monkeypatch.setattr(encoder.towers, "plans", (small, None))
    assert same(encoder.encode_pixels(pictures(7)), expected)
    assert sizes == [7, 4, 2, 2, 2, 1]
    sizes.clear()
    assert same(encoder.encode_pixels(pictures(7)), expected)
    assert sizes == [2, 2, 2, 1], "what did not fit was tried again"


def test_captions_that_do_not_fit_are_remembered_by_their_tokens(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = oneclip.load(weights, device="cpu")
    whole, shapes = encoder.towers.plans[1], []

    def small(batch: torch.Tensor) -> torch.Tensor | None:
        shapes.append(tuple(batch.shape))
        if batch.numel() > 24:
            raise torch.OutOfMemoryError("out of memory")
        return whole(batch)

    monkeypatch.setattr(encoder.towers, "plans", (None, small))
    long, short = captions(4), captions(4)[:, :6]
    encoder.encode_tokens(long)
    encoder.encode_tokens(short)
    assert shapes == [(4, 12), (2, 12), (2, 12), (4, 4)]  # cut to the longest


def test_one_row_that_does_not_fit_says_so(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = oneclip.load(weights, device="cpu")

    def never(batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(encoder.towers, "plans", (never, never))
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode_pixels(pictures(2))
