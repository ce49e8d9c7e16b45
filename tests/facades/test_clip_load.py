"""`clip.load`: names, files, archives, downloads, devices, TorchScript."""

import hashlib
import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_clip import MODELS, VIT, random_model, random_model_in_half, save_archive, save_state_dict
from torch import Tensor

import clip
import oneclip.model
from oneclip import checkpoint
from oneclip.errors import (
    CheckpointError,
    CheckpointMismatchError,
    ChecksumError,
    DownloadError,
    UnknownModelError,
)

CAPTIONS = ["a diagram", "a photograph of a dog that runs over a wide green field", ""]


def inputs(model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    side = model.visual.input_resolution
    image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return image, clip.tokenize(CAPTIONS)


def same_features(ours: torch.nn.Module, expected: torch.nn.Module) -> None:
    image, text = inputs(expected)
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_image(image), expected.encode_image(image))
        torch.testing.assert_close(ours.encode_text(text), expected.encode_text(text))


def test_the_nine_names_come_in_their_order() -> None:
    names = "RN50 RN101 RN50x4 RN50x16 RN50x64 ViT-B/32 ViT-B/16 ViT-L/14 ViT-L/14@336px"
    assert clip.available_models() == names.split()


@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_is_loaded_by_its_path(name: str, tmp_path: Path) -> None:
    expected = save_state_dict(tmp_path / "model.pt", MODELS[name])
    model, preprocess = clip.load(str(tmp_path / "model.pt"), device="cpu")
    assert isinstance(model, oneclip.model.CLIP)
    assert not model.training
    same_features(model, expected)
    side = MODELS[name][1]
    assert preprocess(Image.new("RGB", (90, 70))).shape == (3, side, side)


@pytest.mark.parametrize("name", MODELS)
def test_an_archive_is_loaded_in_fp32_on_the_cpu(name: str, tmp_path: Path) -> None:
    expected = save_archive(tmp_path / "model.pt", MODELS[name])
    model, _ = clip.load(tmp_path / "model.pt", device=torch.device("cpu"))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    same_features(model, expected)


def test_a_state_dict_in_fp32_keeps_its_precision_on_the_cpu(tmp_path: Path) -> None:
    expected = save_state_dict(tmp_path / "model.pt")
    model, _ = clip.load(str(tmp_path / "model.pt"), "cpu")
    assert torch.equal(model.visual.conv1.weight, expected.visual.conv1.weight)


def test_the_attributes_that_programs_read_are_there(tmp_path: Path) -> None:
    save_state_dict(tmp_path / "model.pt")
    model, _ = clip.load(str(tmp_path / "model.pt"), device="cpu")
    assert (model.visual.input_resolution, model.context_length, model.vocab_size) == (32, 77, 49408)
    assert model.dtype == torch.float32
    assert model.logit_scale.shape == ()


def test_two_logit_matrices_are_each_others_transpose(tmp_path: Path) -> None:
    model = save_state_dict(tmp_path / "model.pt")
    image, text = inputs(model)
    per_image, per_text = model(image, text)
    assert per_image.shape == (2, 3)
    assert torch.equal(per_image, per_text.T)
    image_features, text_features = (
        f / f.norm(dim=1, keepdim=True) for f in (model.encode_image(image), model.encode_text(text))
    )
    torch.testing.assert_close(per_image, model.logit_scale.exp() * image_features @ text_features.T)


def test_images_of_any_dtype_are_cast() -> None:
    model = random_model()
    image, _ = inputs(model)
    torch.testing.assert_close(model.encode_image(image.double()), model.encode_image(image))


@pytest.mark.parametrize("name", MODELS)
def test_a_script_survives_saving_and_takes_other_sizes(name: str, tmp_path: Path) -> None:
    expected = save_state_dict(tmp_path / "model.pt", MODELS[name])
    model, _ = clip.load(str(tmp_path / "model.pt"), device="cpu", jit=True)
    assert isinstance(model, torch.jit.ScriptModule)
    assert model.dtype == torch.float32
    assert (model.visual.input_resolution, model.context_length, model.vocab_size) == (
        MODELS[name][1],
        77,
        49408,
    )
    torch.jit.save(model, tmp_path / "script.pt")
    for script in (model, torch.jit.load(tmp_path / "script.pt")):
        same_features(script, expected)
        image, text = inputs(expected)
        with torch.no_grad():
            for images, texts in (
                (image, text),
                (image[:1], text[:2, :20]),
                (image.repeat(3, 1, 1, 1), text[:1]),
            ):
                for ours, theirs in zip(script(images, texts), expected(images, texts), strict=True):
                    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("jit", [False, True])
def test_on_cuda_weights_are_fp16_and_norms_fp32(jit: bool, tmp_path: Path) -> None:
    expected = save_state_dict(tmp_path / "model.pt")
    model, _ = clip.load(str(tmp_path / "model.pt"), jit=jit)
    assert model.logit_scale.device.type == "cuda"
    assert model.dtype == torch.float16
    assert model.ln_final.weight.dtype == torch.float32
    image, text = inputs(expected)
    features = model.encode_image(image.cuda()).float().cpu()
    assert torch.nn.functional.cosine_similarity(features, expected.encode_image(image)).min() > 0.999
    features = model.encode_text(text.cuda()).float().cpu()
    assert torch.nn.functional.cosine_similarity(features, expected.encode_text(text)).min() > 0.999


@pytest.mark.parametrize("name", MODELS)
def test_half_weights_take_fp32_images_for_intermediates_too(name: str) -> None:
    model = random_model(MODELS[name])
    image, text = inputs(model)
    clip.model.convert_weights(model)
    output = model.forward_intermediates(image, text)
    assert output["image_features"].dtype == output["text_features"].dtype == torch.float16


def test_weights_can_be_initialized_again() -> None:
    model = random_model()
    before = model.token_embedding.weight.clone()
    model.initialize_parameters()
    assert not torch.equal(model.token_embedding.weight, before)


def test_convert_weights_leaves_norms_and_embeddings_in_fp32() -> None:
    model = random_model(MODELS["resnet"])
    clip.model.convert_weights(model)
    halved = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float16}
    assert {"visual.conv1.weight", "visual.attnpool.q_proj.bias", "text_projection"} <= halved
    assert "transformer.resblocks.0.attn.in_proj_weight" in halved
    kept = set(dict(model.named_parameters())) - halved
    assert all(
        "ln_" in name or "bn" in name or "embedding" in name or "downsample.1" in name
        for name in kept - {"logit_scale"}
    )


def test_build_model_gives_fp16_and_takes_the_numbers_of_an_archive_along() -> None:
    model = random_model()
    numbers = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }
    built = clip.model.build_model({**model.state_dict(), **numbers})
    assert built.dtype == torch.float16
    assert not built.training
    torch.testing.assert_close(built.float().visual.conv1.weight, model.visual.conv1.weight.half().float())


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve `_MODELS["ViT-B/32"]` from a local server; yields the served folder."""
    save_archive(tmp_path / "archive.pt")
    digest = hashlib.sha256((tmp_path / "archive.pt").read_bytes()).hexdigest()
    folder = tmp_path / "served"
    (folder / digest).mkdir(parents=True)
    shutil.move(tmp_path / "archive.pt", folder / digest / "ViT-B-32.pt")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{digest}/ViT-B-32.pt"
        monkeypatch.setitem(clip.clip._MODELS, "ViT-B/32", url)
        for name in ("ONECLIP_OFFLINE", "HF_HUB_OFFLINE", "ONECLIP_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        yield folder
        server.shutdown()


def test_a_published_model_is_fetched_once_into_download_root(published: Path, tmp_path: Path) -> None:
    model, _ = clip.load("ViT-B/32", device="cpu", download_root=str(tmp_path / "models"))
    assert [file.name for file in (tmp_path / "models").glob("*.pt*") if file.suffix != ".lock"] == [
        "ViT-B-32.pt"
    ]
    same_features(model, random_model_in_half())
    shutil.rmtree(published)
    clip.load("ViT-B/32", device="cpu", download_root=str(tmp_path / "models"))


def test_the_default_download_folder_is_the_users_cache(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    clip.load("ViT-B/32", device="cpu")
    assert (tmp_path / ".cache" / "clip" / "ViT-B-32.pt").is_file()


def test_a_file_that_fails_its_checksum_is_never_used(published: Path, tmp_path: Path) -> None:
    file = next(published.rglob("*.pt"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ChecksumError) as raised:
        clip.load("ViT-B/32", device="cpu", download_root=tmp_path / "models")
    assert isinstance(raised.value, RuntimeError)  # what OpenAI's package raises
    assert not list((tmp_path / "models").glob("*.pt"))


def test_download_takes_openais_arguments(published: Path, tmp_path: Path) -> None:
    path = clip.clip._download(clip.clip._MODELS["ViT-B/32"], str(tmp_path / "models"))
    assert path == str(tmp_path / "models" / "ViT-B-32.pt")


def test_a_url_without_a_checksum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="sha256"):
        clip.clip._download("http://127.0.0.1/models/ViT-B-32.pt", tmp_path)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="did you mean ViT-B/32") as raised:
        clip.load("ViT-B32")
    assert isinstance(raised.value, RuntimeError)  # what OpenAI's package raises


def test_a_checkpoint_that_says_it_had_gelu_is_refused(tmp_path: Path) -> None:
    model = random_model()
    metadata = {"model_cfg": {"embed_dim": 32, "quick_gelu": False, "vision_cfg": {}, "text_cfg": {}}}
    checkpoint.save(tmp_path / "model.safetensors", model.state_dict(), metadata)
    with pytest.raises(CheckpointError, match="GELU"):
        clip.load(str(tmp_path / "model.safetensors"), device="cpu")


def test_a_checkpoint_that_lacks_weights_lists_them(tmp_path: Path) -> None:
    weights = random_model().state_dict()
    del weights["ln_final.bias"]
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(CheckpointMismatchError, match=r"ln_final\.bias"):
        clip.load(str(tmp_path / "model.pt"), device="cpu")


def test_another_kind_of_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="OpenAI"):
        clip.load(str(tmp_path / "model.pt"), device="cpu")


def test_initial_arguments_are_openais_ten() -> None:
    assert clip.model.CLIP(*VIT).visual.patch_size == (16, 16)
