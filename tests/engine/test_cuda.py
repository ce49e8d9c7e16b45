"""Plans on a GPU: the numbers of the module, graphs that are never stale, out of memory, overlapping transfers."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import (
    CONTEXT,
    TEXT,
    VISION,
    assert_same,
    random_images,
    random_texts,
    small_model,
    small_siglip,
)
from tiny import picture, write_tiny_model
from torch import Tensor

import oneclip
from oneclip.encoder import Encoder
from oneclip.engine.device_transfer import DeviceTransfer
from oneclip.engine.graph_cache import GraphCache
from oneclip.engine.plan import Plan, make_image_plan, make_text_plan
from oneclip.engine.precision import descriptions
from oneclip.engine.vision_plan import VisionPlan
from oneclip.errors import ConfigError

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

PRECISIONS = ["fp32", "bf16", "fp16"]


@pytest.fixture(autouse=True)
def no_tf32() -> Iterator[None]:
    """Turn TF32 off, so that fp32 is compared with fp32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def graphs_of(plan: Plan) -> GraphCache:
    """Return the graphs of a plan; no capture may have failed."""
    assert plan._built is not None
    compute = plan._built.compute
    assert isinstance(compute, GraphCache)
    assert compute.remark == ""
    return compute


def compare(model: Any, precision: str, images: Tensor | None = None, ids: Tensor | None = None) -> None:
    """Compare plans with the module twice: the second time a graph is replayed only."""
    kind = "fp32" if precision == "fp32" else "bf16"
    sides = [
        (make_image_plan(model, precision), model.encode_image, images),
        (make_text_plan(model, precision), model.encode_text, ids),
    ]
    with torch.inference_mode():
        for plan, plain, batch in sides * 2:
            if batch is not None:
                assert_same(plan(batch), plain(batch), kind)
                assert len(graphs_of(plan)._replays) == 1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize("option", VISION)
def test_every_option_of_the_image_tower(option: str, quick_gelu: bool, precision: str) -> None:
    if quick_gelu and option == "tanh":
        pytest.skip("QuickGELU takes no arguments")
    model = small_model(VISION[option], quick_gelu=quick_gelu)
    compare(model.cuda(), precision, images=random_images(size=model.visual.image_size).cuda())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("option", TEXT)
def test_every_option_of_the_text_tower(option: str, precision: str) -> None:
    model = small_model(text=TEXT[option], custom_text=True, quick_gelu=True).cuda()
    compare(model, precision, ids=random_texts().cuda())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_both_towers_of_siglip(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_siglip("vit_so400m_patch14_siglip_224", monkeypatch).cuda()
    compare(model, precision, images=random_images().cuda(), ids=random_texts().cuda())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_convolutional_tower_runs_channels_last(precision: str) -> None:
    model = small_model(
        {"layers": [1, 1, 1, 1], "width": 16, "head_width": 16, "patch_size": None, "image_size": 64}
    ).cuda()
    images = random_images(size=(64, 64)).cuda()
    with torch.inference_mode():
        plan = make_image_plan(model, precision)
        assert_same(plan(images), model.encode_image(images), precision)


def test_batches_of_all_sizes_and_lengths_share_the_graphs() -> None:
    model = small_model().cuda()
    images, texts = make_image_plan(model, "fp32"), make_text_plan(model, "fp32")
    with torch.inference_mode():
        for rows, length in ((8, CONTEXT), (5, 3), (7, 9), (1, 1), (6, CONTEXT), (700, 4)):
            batch, ids = random_images(rows).cuda(), random_texts(rows, length).cuda()
            assert_same(images(batch), model.encode_image(batch))
            assert_same(texts(ids), model.encode_text(ids))
    assert len(graphs_of(images)._replays) == 2
    assert len(graphs_of(texts)._replays) == 2


def test_features_outlive_the_next_batch() -> None:
    model = small_model().cuda()
    plan = make_image_plan(model, "fp32")
    first, second = random_images(4).cuda(), random_images(4).cuda() * 2
    with torch.inference_mode():
        found = [plan(first), plan(second), plan(first)]
        for features, batch in zip(found, (first, second, first), strict=True):
            assert_same(features, model.encode_image(batch))


def test_graphs_are_captured_again_when_the_weights_have_changed() -> None:
    model = small_model().cuda()
    plans = make_image_plan(model, "fp32"), make_text_plan(model, "fp32")
    images, ids = random_images().cuda(), random_texts().cuda()
    for change in ("none", "load", "step", "replace"):
        if change == "load":
            model.load_state_dict({name: 1.1 * tensor for name, tensor in model.state_dict().items()})
        elif change == "step":
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            (model.encode_image(images).square().mean() + model.encode_text(ids).square().mean()).backward()
            optimizer.step()
        elif change == "replace":
            model.visual.proj = torch.nn.Parameter(2 * model.visual.proj.detach())
        with torch.inference_mode():
            assert_same(plans[0](images), model.encode_image(images))
            assert_same(plans[1](ids), model.encode_text(ids))


def test_a_model_that_moves_gets_a_plan_on_its_new_device() -> None:
    model = small_model()
    plan, images = make_image_plan(model, "bf16"), random_images()
    with torch.inference_mode():
        expected = model.encode_image(images)
        assert_same(plan(images), expected, "bf16")
    model.cuda()
    with torch.inference_mode():
        assert plan(images) is None, "the batch is on another device"
        found = plan(images.cuda())
        assert found is not None
        assert_same(found.cpu(), expected, "bf16")


def test_autocast_hooks_and_capture_turn_the_plan_off() -> None:
    model = small_model().cuda()
    plan, images = make_image_plan(model, "fp32"), random_images().cuda()
    with torch.inference_mode():
        with torch.autocast("cuda", torch.bfloat16):
            assert plan(images) is None
        handle = model.visual.ln_post.register_forward_hook(lambda *_: None)
        assert plan(images) is None
        handle.remove()
        assert plan(images) is not None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            images + 1  # something to capture
            assert plan(images) is None


def test_every_thread_and_stream_gets_its_own_numbers() -> None:
    model = small_model().cuda()
    plan = make_image_plan(model, "fp32")
    batches = [random_images(3).cuda() * (1 + number) for number in range(4)]
    with torch.inference_mode():
        expected = [model.encode_image(batch) for batch in batches]
    torch.cuda.synchronize()
    found: list[list[Tensor | None]] = [[] for _ in batches]

    def work(number: int) -> None:
        stream = torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(50):
                found[number].append(plan(batches[number]))
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for features, wanted in zip(found, expected, strict=True):
        assert len(features) == 50
        for each in features:
            assert_same(each, wanted)


# ------------------------------------------------------------------------------------------------- transfers


def test_a_batch_is_copied_to_the_device_and_back() -> None:
    transfer = DeviceTransfer(torch.device("cuda", torch.cuda.current_device()))
    rows = [torch.full((3, 64, 64), number, dtype=torch.uint8) for number in range(5)]
    waits = []
    for start in range(20):  # none may overwrite the memory of another
        batch = transfer.stack([row + start for row in rows])
        assert batch.is_cuda
        waits.append(transfer.fetch(batch.float() * 2))
    for start, wait in enumerate(waits):
        found = wait()
        assert not found.is_cuda
        assert not found.is_pinned()
        assert torch.equal(found, torch.stack([(row + start).float() * 2 for row in rows]))


# ------------------------------------------------------------------------------------------------- the encoder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.safetensors")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_encoder_keeps_the_fp32_module_as_reference(weights: Path, precision: str) -> None:
    encoder = oneclip.load(weights, device="cuda", precision=precision)
    assert (encoder.precision, encoder.inference.dtype) == (precision, torch.float32)
    assert "CUDA graphs" in encoder.inference.describe()[0]
    on_cpu = oneclip.load(weights, device="cpu")
    images = [picture(seed) for seed in range(9)]
    words = ["a cat", "a dog on the grass", "a cat", "word " * 40]
    for found, expected in (
        (encoder.encode_images(images, batch_size=4), on_cpu.encode_images(images)),
        (encoder.encode_texts(words, batch_size=2), on_cpu.encode_texts(words)),
    ):
        assert found.dtype == np.float32
        least = 0.99999 if precision == "fp32" else 0.999
        assert (found * expected).sum(axis=1).min() > least


def test_streamed_embeddings_are_those_of_one_call(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cuda")
    images: list[Any] = [picture(seed) for seed in range(23)]
    whole = encoder.encode_images(images, batch_size=23)
    images[9] = b"not an image"
    parts = list(encoder.stream_images(images, batch_size=4, on_error="skip"))
    assert [index for part in parts for index in part.kept] == [i for i in range(23) if i != 9]
    assert [skipped.index for part in parts for skipped in part.skipped] == [9]
    found = np.concatenate([part.features for part in parts])
    assert np.allclose(found, np.delete(whole, 9, axis=0), atol=1e-5)


def test_an_unreadable_image_raises_after_the_batches_before_it(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cuda")
    stream = encoder.stream_images([*(picture(seed) for seed in range(8)), b"not an image"], batch_size=4)
    assert [next(stream).kept, next(stream).kept] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(oneclip.errors.ImageError):
        next(stream)


def test_pixels_are_copied_as_bytes_and_become_the_same_floats(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cuda")
    seen = []
    plain = encoder.inference.encode_pixels

    def watched(pixels: Tensor) -> Tensor:
        seen.append(pixels.cpu())
        return plain(pixels)

    encoder.inference.encode_pixels = watched  # type: ignore[method-assign]
    content = io.BytesIO()
    picture(3, (90, 70)).save(content, "PNG")
    encoder.encode_images([content.getvalue(), picture(4)])
    assert torch.equal(seen[0][1], encoder.preprocess(picture(4)))
    assert torch.equal(seen[0][0], encoder.preprocess(picture(3, (90, 70))))


def test_int8_is_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="int8 runs on a CPU"):
        oneclip.load(weights, device="cuda", precision="int8")
    with pytest.raises(ConfigError, match="on a GPU"):
        oneclip.accelerate(small_model().cuda(), "int8")


def test_a_batch_that_does_not_fit_is_halved(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cuda")
    pixels = torch.randn(7, 3, 32, 32)
    expected, sizes = encoder.encode_pixels(pixels), []

    def limit(_module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            torch.empty(2**50, dtype=torch.uint8, device="cuda")  # too much: raises torch's own error

    encoder.model.visual.register_forward_pre_hook(limit)
    for wanted in ([7, 4, 2, 2, 2, 1], [2, 2, 2, 1]):
        sizes.clear()
        assert torch.allclose(encoder.encode_pixels(pixels), expected, atol=1e-5)
        assert sizes == wanted


def test_a_graph_that_does_not_fit_turns_graphs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model().cuda()
    plan, images = make_image_plan(model, "fp32"), random_images().cuda()
    compute = VisionPlan.__call__

    def full(self: Any, pixels: Tensor) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        return compute(self, pixels)

    with torch.inference_mode():
        expected = model.encode_image(images)
        monkeypatch.setattr(VisionPlan, "__call__", full)
        assert_same(plan(images), expected)
        assert "CUDA graphs are off" in plan.describe()
        assert_same(plan(images), expected)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()


def test_accelerate_uses_the_plan() -> None:
    for dtype, precision in ((torch.float32, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        model = small_model(quick_gelu=True).cuda().to(dtype)
        images, ids = random_images().cuda().to(dtype), random_texts().cuda()
        with torch.no_grad():
            expected = model.encode_image(images), model.encode_text(ids)
            handle = oneclip.accelerate(model)
            assert handle.precision == precision
            found = model.encode_image(images), model.encode_text(ids)
            for features, wanted in zip(found, expected, strict=True):
                assert (features.dtype, features.device) == (dtype, wanted.device)
                least = 0.9995 if dtype != torch.bfloat16 else 0.99
                assert torch.cosine_similarity(features.float(), wanted.float(), dim=-1).min() > least
        graphs_of(handle.image_plan)
        graphs_of(handle.text_plan)
        probe = torch.nn.Linear(64, 1, device="cuda", dtype=dtype)
        probe(found[0]).sum().backward()  # they are ordinary tensors


def test_the_doctor_describes_the_precisions_of_a_gpu() -> None:
    found = descriptions()
    assert "CUDA graphs" in found["bf16"]
    assert found["auto"] in ("bf16", "fp16")


def test_an_encoder_packs_weights_in_fp16_without_conversion(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cuda")
    low = Encoder(encoder.model.half(), encoder.preprocess, encoder.tokenizer, encoder.cfg, name="low")
    assert low.precision == "fp16"
    assert "fp16" in low.inference.describe()[0]
    assert low.encode_images([picture(1)]).shape == (1, low.embed_dim)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_encoder_moves_to_a_cpu_and_back_in_its_precision(weights: Path, precision: str) -> None:
    encoder = oneclip.load(weights, device="cuda", precision=precision)
    images = [picture(seed) for seed in range(3)]
    expected = encoder.encode_images(images)
    for device in ("cpu", "cuda"):
        assert encoder.to(device) is encoder
        assert (encoder.device.type, encoder.precision) == (device, precision)
        assert (encoder.encode_images(images) * expected).sum(axis=1).min() > 0.999


def test_int8_does_not_move_to_a_gpu(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cpu", precision="int8")
    with pytest.raises(oneclip.errors.ConfigError, match="int8 runs on a CPU"):
        encoder.to("cuda")
    assert encoder.device.type == "cpu"


def test_probabilities_are_where_the_features_are(weights: Path) -> None:
    encoder = oneclip.load(weights, device="cuda")
    pixels = torch.stack([encoder.preprocess(picture(seed)) for seed in range(3)])
    features, labels = encoder.encode_pixels(pixels), encoder.encode_texts(["a cat", "a dog"])
    found = encoder.probabilities(features, labels)
    assert found.device == features.device
    np.testing.assert_allclose(
        found.cpu().numpy(), encoder.probabilities(features.cpu().numpy(), labels), atol=1e-6
    )
    assert encoder.encode_pixels(pixels.numpy()).dtype == np.float32
