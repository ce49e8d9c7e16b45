"""Loading models by name: their activation and preprocessing, and refused files."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import in_this_process
from torch import Tensor, nn

from oneclip import zoo
from oneclip.checkpoint import infer_openai_config, load, looks_like_openai, save, save_quantized
from oneclip.checkpoint.skip_init import build_on_meta
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import (
    AmbiguousModelError,
    CheckpointError,
    CheckpointMismatchError,
    ConfigError,
    OfflineError,
    UnknownModelError,
)
from oneclip.model import build_model
from oneclip.zoo import catalogue

TEXT = CLIPTextCfg(context_length=9, vocab_size=60, width=64, heads=1, layers=1)
TINY = ModelCfg(16, CLIPVisionCfg(layers=2, width=64, patch_size=8, image_size=16), TEXT)
ROW = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 9, "vocab_size": 60, "width": 64, "heads": 1, "layers": 1},
}
OTHER_PIXELS = PreprocessCfg(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resize_mode="squash")


def weights(cfg: ModelCfg = TINY) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build_model(cfg).state_dict()


class OpenAI(nn.Module):
    """Module with the names of a model's weights, and an activation in its code."""

    def __init__(self, state: dict[str, Tensor], quick_gelu: bool) -> None:
        super().__init__()
        self.quick_gelu = quick_gelu
        for name, tensor in state.items():
            *parents, last = name.split(".")
            module: nn.Module = self
            for parent in parents:
                if not hasattr(module, parent):
                    module.add_module(parent, nn.Module())
                module = getattr(module, parent)
            module.register_parameter(last, nn.Parameter(tensor))
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(16))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x) if self.quick_gelu else nn.functional.gelu(x)


def archive(path: Path, quick_gelu: bool = True) -> Path:
    torch.jit.save(torch.jit.trace(OpenAI(weights(), quick_gelu), torch.ones(1)), path)
    return path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A zoo with two more architectures, `tiny` and `tiny-quickgelu`, whose weights are in a cache."""
    save(tmp_path / "published.pt", weights())
    sha256 = hashlib.sha256((tmp_path / "published.pt").read_bytes()).hexdigest()
    folder = tmp_path / "cache"
    folder.mkdir()
    (tmp_path / "published.pt").rename(folder / "tiny.pt")
    url = f"openai:{sha256}/tiny.pt"
    monkeypatch.setitem(catalogue._rows(), "tiny", ROW)
    monkeypatch.setitem(catalogue._rows(), "tiny-quickgelu", {"like": "tiny", "quick_gelu": True})
    tags = {"first": {"url": url, "quick_gelu": True}, "second": {"url": url}}
    monkeypatch.setitem(catalogue._weight_table()["weights"], "tiny", tags)
    monkeypatch.setenv("ONECLIP_CACHE", str(folder))
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    catalogue._weights_of.cache_clear()
    yield tmp_path
    catalogue._weights_of.cache_clear()


def has_weights(model: nn.Module, expected: dict[str, Tensor] | None = None) -> bool:
    expected = weights() if expected is None else expected
    return all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "quick_gelu"), [("tiny:first", True), ("tiny:second", False), ("tiny-quickgelu:first", True)]
)
def test_published_weights_have_the_activation_they_were_trained_with(
    tiny: Path, name: str, quick_gelu: bool
) -> None:
    loaded = load(name)
    assert loaded.cfg.quick_gelu is quick_gelu
    assert loaded.name == name
    assert loaded.preprocess_cfg == PreprocessCfg(size=16)
    assert has_weights(loaded.model)
    assert not loaded.model.training


def test_published_weights_that_are_not_here(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        OfflineError, match=r"ViT-B-32\.pt is not on this machine.*Fetch https://openaipublic"
    ):
        load("ViT-B/32")
    (tiny / "cache" / "tiny.pt").write_bytes(b"damaged")
    with pytest.raises(OfflineError, match="is damaged"):
        load("tiny:first")


def test_published_weights_are_looked_for_in_another_folder(tiny: Path) -> None:
    (tiny / "cache").rename(tiny / "elsewhere")
    assert has_weights(load("tiny:first", cache_dir=tiny / "elsewhere").model)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(("arch", "quick_gelu"), [("tiny", False), ("tiny-quickgelu", True)])
def test_a_bare_file_takes_its_facts_from_the_architecture_named(
    tiny: Path, suffix: str, arch: str, quick_gelu: bool
) -> None:
    save(tiny / f"m{suffix}", weights())
    loaded = load(f"{arch}:{tiny}/m{suffix}")
    assert loaded.cfg.quick_gelu is quick_gelu
    assert loaded.preprocess_cfg == zoo.preprocess_of(arch)
    assert has_weights(loaded.model)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_bare_path_whose_activation_cannot_be_known_names_both_ways_out(tiny: Path, suffix: str) -> None:
    path = tiny / f"m{suffix}"
    save(path, {name: 2 * tensor for name, tensor in weights().items()})
    with pytest.raises(AmbiguousModelError) as caught:
        load(path)
    assert f"the shapes of tiny, tiny-quickgelu: name one, as in tiny:{path} or tiny-quickgelu:{path}" in str(
        caught.value
    )
    assert "quick_gelu=True or quick_gelu=False" in str(caught.value)
    assert f"clip.load({str(path)!r})" in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_a_file_that_says_what_it_is_loads_by_its_path(tiny: Path, suffix: str, quick_gelu: bool) -> None:
    cfg = ModelCfg(**vars(TINY) | {"quick_gelu": quick_gelu})
    save(
        tiny / f"m{suffix}", weights(), {"model_cfg": cfg.to_dict(), "preprocess_cfg": OTHER_PIXELS.to_dict()}
    )
    loaded = load(tiny / f"m{suffix}")
    assert (loaded.cfg, loaded.preprocess_cfg) == (cfg, OTHER_PIXELS)
    assert has_weights(loaded.model)


def test_a_file_that_says_what_it_is_must_not_contradict_the_architecture_named(tiny: Path) -> None:
    save(tiny / "m.pt", weights(), {"model_cfg": TINY.to_dict(), "preprocess_cfg": OTHER_PIXELS.to_dict()})
    assert load(f"tiny:{tiny}/m.pt").preprocess_cfg == OTHER_PIXELS
    with pytest.raises(ConfigError, match=r"has GELU, and tiny-quickgelu has QuickGELU.*or as tiny:"):
        load(f"tiny-quickgelu:{tiny}/m.pt")


@pytest.mark.parametrize(
    "metadata", [{"model_cfg": {"width": 3}}, {"model_cfg": {"embed_dim": 3, "vision_cfg": 5}}]
)
def test_a_file_that_describes_no_model(tiny: Path, metadata: dict) -> None:
    save(tiny / "m.pt", weights(), metadata)
    with pytest.raises(CheckpointError, match="is not a valid model configuration"):
        load(tiny / "m.pt")


def test_an_archive_of_openais_says_what_it_is(tmp_path: Path) -> None:
    loaded = load(archive(tmp_path / "m.pt"))
    assert loaded.cfg == ModelCfg(**vars(TINY) | {"quick_gelu": True})
    assert loaded.preprocess_cfg == PreprocessCfg(size=16)
    assert has_weights(loaded.model)


def test_an_archive_with_another_activation_is_not_taken_for_openais(tmp_path: Path) -> None:
    with pytest.raises(AmbiguousModelError, match="not with OpenAI's QuickGELU"):
        load(archive(tmp_path / "m.pt", quick_gelu=False))


def test_an_archive_contradicts_an_architecture_with_another_activation(tiny: Path) -> None:
    path = archive(tiny / "m.pt")
    with pytest.raises(ConfigError, match=r"has QuickGELU, and tiny has GELU.*tiny-quickgelu:"):
        load(f"tiny:{path}")


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))), tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="not of a model in OpenAI's format"):
        load(tmp_path / "m.pt")


def test_the_model_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys.modules["oneclip.zoo.resolve"], "pocket_path", lambda: tmp_path / "pocket.safetensors"
    )
    with pytest.raises(UnknownModelError, match="weights are missing in this installation"):
        load("pocket")
    save_quantized(tmp_path / "pocket.safetensors", weights(), TINY, OTHER_PIXELS)
    loaded = load("pocket")
    assert (loaded.name, loaded.cfg, loaded.preprocess_cfg) == ("pocket", TINY, OTHER_PIXELS)


FOLDER = {"model_cfg": ROW, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}}


@pytest.mark.parametrize(
    "name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "any.safetensors"]
)
def test_a_folder_with_a_configuration(tmp_path: Path, name: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(json.dumps(FOLDER))
    save(tmp_path / name, weights())
    for given in (str(tmp_path), f"local-dir:{tmp_path}"):
        loaded = load(given)
        assert (loaded.cfg, loaded.preprocess_cfg) == (TINY, OTHER_PIXELS)
        assert has_weights(loaded.model)


@pytest.mark.parametrize(
    ("config", "files", "error", "message"),
    [
        (None, ["open_clip_model.safetensors"], AmbiguousModelError, "neither open_clip_config.json"),
        (json.dumps(FOLDER), [], CheckpointError, "contains no weights"),
        (
            json.dumps(FOLDER),
            ["a.safetensors", "b.safetensors"],
            AmbiguousModelError,
            "several weights files",
        ),
        ("{", ["open_clip_model.safetensors"], CheckpointError, "cannot be read as JSON"),
        ("[" * 100_000, ["open_clip_model.safetensors"], CheckpointError, "cannot be read as JSON"),
        ("{}", ["open_clip_model.safetensors"], CheckpointError, "has no model_cfg"),
    ],
)
def test_folders_that_cannot_be_loaded(
    tmp_path: Path, config: str | None, files: list[str], error: type[Exception], message: str
) -> None:
    if config is not None:
        (tmp_path / "open_clip_config.json").write_text(config)
    for name in files:
        save(tmp_path / name, weights())
    with pytest.raises(error, match=message):
        load(tmp_path)


def test_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "weights.safetensors", weights())
    files = {
        "sub/open_clip_config.json": json.dumps(FOLDER).encode(),
        "sub/open_clip_model.safetensors": (tmp_path / "weights.safetensors").read_bytes(),
    }
    with in_this_process(monkeypatch, tmp_path) as server:
        server.publish("own/model", files, "v1")
        loaded = load("hf-hub:own/model/sub@v1")
    assert has_weights(loaded.model)
    assert loaded.home == "hf-hub:own/model/sub@v1"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_and_device(tiny: Path, precision: str, dtype: torch.dtype) -> None:
    model = load("tiny:first", precision=precision, device="cpu").model
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    with pytest.raises(ConfigError, match="precision is 'int3'; expected one of fp32, bf16, fp16"):
        load("tiny:first", precision="int3")


def test_weights_of_another_architecture(tiny: Path) -> None:
    save(tiny / "m.pt", {name: tensor for name, tensor in weights().items() if "resblocks.1" not in name})
    with pytest.raises(CheckpointMismatchError, match=r"m\.pt does not fit the model") as caught:
        load(f"tiny:{tiny}/m.pt")
    assert all(name.startswith("visual.transformer.resblocks.1") for name in caught.value.missing)


@pytest.mark.parametrize(
    ("vision", "width"),
    [
        (CLIPVisionCfg(layers=3, width=128, patch_size=16, image_size=48), 64),
        (CLIPVisionCfg(layers=1, width=64, patch_size=14, image_size=28), 128),
        (CLIPVisionCfg(layers=(1, 2, 3, 1), width=8, image_size=64), 128),
    ],
)
def test_the_configuration_is_inferred_from_openai_shapes(vision: CLIPVisionCfg, width: int) -> None:
    text = CLIPTextCfg(context_length=11, vocab_size=70, width=width, heads=width // 64, layers=2)
    cfg = ModelCfg(24, vision, text, quick_gelu=True)
    assert infer_openai_config(build_model(cfg).state_dict()) == cfg


@pytest.mark.parametrize("name", list(zoo.OPENAI_NAMES))
def test_openais_nine_models_are_recognized(name: str) -> None:
    cfg = zoo.architecture(name)
    found = infer_openai_config(build_on_meta(lambda: build_model(cfg)).state_dict())
    found.vision_cfg.patch_size = cfg.vision_cfg.patch_size  # a ResNet has no patches
    assert found == ModelCfg(**vars(cfg) | {"quick_gelu": True})


@pytest.mark.parametrize("lost", ["visual.proj", "token_embedding.weight", "visual.conv1.weight"])
def test_other_state_dicts_are_not_taken_for_openais(lost: str) -> None:
    state = weights()
    assert looks_like_openai(state)
    del state[lost]
    assert not looks_like_openai(state)
    with pytest.raises(CheckpointError, match="not a state dict in OpenAI's format"):
        infer_openai_config(state)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("visual.positional_embedding", (8, 64), "expected a square number plus one"),
        ("visual.conv1.weight", (70, 3, 8, 8), "a tower has width 70"),
        ("token_embedding.weight", (60, 70), "a tower has width 70"),
    ],
)
def test_shapes_that_no_model_of_openais_has(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        infer_openai_config(weights() | {name: torch.ones(shape)})


def test_blocks_with_gaps_are_refused() -> None:
    state = {name.replace("resblocks.1", "resblocks.2"): tensor for name, tensor in weights().items()}
    with pytest.raises(CheckpointError, match="expected blocks numbered 0, 1, 2"):
        infer_openai_config(state)
