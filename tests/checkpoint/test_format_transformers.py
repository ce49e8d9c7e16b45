"""Models of transformers and ours compute the same with the same weights, converted in either direction."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import oneclip
from oneclip.checkpoint import ConvertibleModel, build_uninitialized, convert, load_into
from oneclip.checkpoint.formats import (
    ForeignCheckpoint,
    NativeCheckpoint,
    TransformersChineseCLIP,
    TransformersCLIP,
    TransformersSigLIP,
    detect_format,
)
from oneclip.config import CLIPTextCfg, CLIPVisionCfg, ModelCfg, PreprocessCfg
from oneclip.errors import CheckpointError, ConfigError
from oneclip.model import build_model

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5  # relative, of features and logits; 6e-7 was found
TOWER = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
IMAGE = {"image_size": 32, "patch_size": 8}


def clip_model(act: str = "quick_gelu", eos: int = 2) -> Any:
    text = TOWER | {"vocab_size": 120, "max_position_embeddings": 16, "hidden_act": act, "eos_token_id": eos}
    config = transformers.CLIPConfig(
        text_config=text, vision_config=TOWER | IMAGE | {"hidden_act": act}, projection_dim=24
    )
    return transformers.CLIPModel(config)


def metaclip_model() -> Any:
    text = TOWER | {"vocab_size": 120, "max_position_embeddings": 16, "hidden_act": "gelu", "eos_token_id": 2}
    vision = TOWER | IMAGE | {"hidden_act": "gelu"}
    return transformers.MetaClip2Model(
        transformers.MetaClip2Config(text_config=text, vision_config=vision, projection_dim=24)
    )


def siglip_model(act: str = "gelu_pytorch_tanh") -> Any:
    text = TOWER | {"vocab_size": 120, "max_position_embeddings": 16, "hidden_act": act}
    return transformers.SiglipModel(
        transformers.SiglipConfig(text_config=text, vision_config=TOWER | IMAGE | {"hidden_act": act})
    )


def siglip2_model() -> Any:
    vision = TOWER | {"patch_size": 8, "num_patches": 16}
    text = TOWER | {"vocab_size": 120, "max_position_embeddings": 16, "projection_size": 32}
    return transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))


def chinese_clip_model() -> Any:
    """With the smallest published text tower, which our configuration stores by name."""
    text = {"vocab_size": 21128, "num_hidden_layers": 3}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=TOWER | IMAGE, projection_dim=24)
    return transformers.ChineseCLIPModel(config)


MODELS: dict[str, Callable[[], Any]] = {
    "clip": clip_model,
    "clip-gelu": lambda: clip_model("gelu"),
    "clip-own-eos": lambda: clip_model(eos=7),
    "metaclip2": metaclip_model,
    "siglip": siglip_model,
    "siglip-gelu": lambda: siglip_model("gelu"),
    "siglip2": siglip2_model,
    "chinese-clip": chinese_clip_model,
}


@pytest.fixture(scope="module", params=MODELS)
def theirs(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    model = MODELS[request.param]().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # makes biases and norms non-trivial
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="module")
def converted(theirs: Any) -> NativeCheckpoint:
    config = json.loads(theirs.config.to_json_string())
    format = detect_format(theirs.state_dict(), config)
    assert format is not None
    return format.read(ForeignCheckpoint(theirs.state_dict(), config))


def batch(theirs: Any) -> tuple[Tensor, Tensor]:
    """Images, and token ids of five lengths: words, an end of text, padding."""
    torch.manual_seed(1)
    kind, end = theirs.config.model_type, theirs.config.text_config.eos_token_id
    if kind == "chinese_clip" or (kind == "clip" and end == 2) or not isinstance(end, int) or end > 119:
        end = 119  # the greatest id, if the model pools there
    ids = torch.randint(8, 118, (5, 16))
    for row, length in enumerate((2, 5, 9, 14, 15)):
        ids[row, length], ids[row, length + 1 :] = end, 0
    return torch.randn(4, 3, 32, 32), ids


def their_outputs(model: Any, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
    inputs: dict[str, Any] = {"pixel_values": images}
    if model.config.model_type == "siglip2":
        from transformers.models.siglip2.image_processing_siglip2 import convert_image_to_patches

        patches = torch.stack([convert_image_to_patches(image, 8) for image in images])
        inputs = {
            "pixel_values": patches,
            "pixel_attention_mask": torch.ones(patches.shape[:2]),
            "spatial_shapes": torch.tensor([[4, 4]] * len(images)),
        }
    text_inputs: dict[str, Any] = {"input_ids": ids}
    if model.config.model_type == "chinese_clip":
        text_inputs["attention_mask"] = (ids != 0).long()
    with torch.no_grad():
        both = model(**text_inputs, **inputs)
        return {
            "image": model.get_image_features(**inputs).pooler_output,
            "text": model.get_text_features(**text_inputs).pooler_output,
            "logits": both.logits_per_image,
        }


def our_outputs(model: Any, images: Tensor, ids: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        logits, _ = model.get_logits(images, ids)
        return {"image": model.encode_image(images), "text": model.encode_text(ids), "logits": logits}


def greatest_error(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max()) for k in theirs)


@pytest.fixture(scope="module")
def errors(request: pytest.FixtureRequest) -> Iterator[dict[str, float]]:
    """Relative errors by kind of model, printed at the end."""
    found: dict[str, float] = {}
    yield found
    shown = ", ".join(f"{kind} {error:.1e}" for kind, error in found.items())
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"\nrelative errors against transformers: {shown}")


def test_outputs_equal_those_of_transformers(
    theirs: Any, converted: NativeCheckpoint, errors: dict[str, float], request: pytest.FixtureRequest
) -> None:
    assert converted.cfg is not None
    model = build_uninitialized(converted.cfg).eval()
    load_into(model, converted.state_dict)
    error = greatest_error(our_outputs(model, *batch(theirs)), their_outputs(theirs, *batch(theirs)))
    assert error < TOLERANCE
    errors[request.node.callspec.params["theirs"]] = error


def test_a_round_trip_gives_the_same_tensors(theirs: Any, converted: NativeCheckpoint) -> None:
    own = theirs.state_dict()
    format = detect_format(own, {"model_type": theirs.config.model_type})
    assert format is not None
    written = format.write(converted)
    assert written.state_dict.keys() == own.keys()
    assert all(torch.equal(written.state_dict[name], own[name]) for name in own)
    assert format.read(written).cfg == converted.cfg


def test_transformers_loads_what_we_write(theirs: Any, converted: NativeCheckpoint, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    format = detect_format(theirs.state_dict(), {"model_type": theirs.config.model_type})
    assert format is not None
    written = format.write(converted)
    (tmp_path / "config.json").write_text(json.dumps(written.config))
    tensors = {name: tensor.contiguous().clone() for name, tensor in written.state_dict.items()}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    again, report = getattr(transformers, type(theirs).__name__).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    given = batch(theirs)
    for name, output in their_outputs(again.eval(), *given).items():
        assert torch.equal(output, their_outputs(theirs, *given)[name]), name


def test_a_state_dict_without_configuration_is_recognized(theirs: Any) -> None:
    format = detect_format(theirs.state_dict())
    kinds: dict[str, type] = {
        "clip": TransformersCLIP,
        "metaclip_2": TransformersCLIP,
        "chinese_clip": TransformersChineseCLIP,
    }
    assert isinstance(format, kinds.get(theirs.config.model_type, TransformersSigLIP))
    assert format.read(ForeignCheckpoint(theirs.state_dict())).cfg is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_config": {"num_attention_heads": 0}}, "num_attention_heads of vision_config"),
        ({"vision_config": {"num_attention_heads": 5}}, "not a multiple of its 5 heads"),
        ({"vision_config": {"hidden_size": 10**400}}, "hidden_size of vision_config"),
        ({"vision_config": {"image_size": [224, 196]}}, "need a square"),
        ({"vision_config": {"hidden_act": "relu"}}, "hidden_act of the visual tower is 'relu'"),
        ({"vision_config": {"hidden_act": "gelu"}}, "QuickGELU in both towers or in none"),
        ({"vision_config": {"num_channels": 4}}, "4 channels"),
        ({"vision_config": "large"}, "expected an object"),
        ({"text_config": {"eos_token_id": [2, 49407]}}, "eos_token_id of text_config"),
        ({"text_config": {"layer_norm_eps": "tiny"}}, "layer_norm_eps of text_config"),
        ({"projection_dim": None}, "projection_dim"),
        ({"logit_scale_init_value": 10**400}, "logit_scale_init_value"),
    ],
)
def test_an_unsupported_configuration_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TransformersCLIP().read(ForeignCheckpoint({}, {"model_type": "clip"} | changes))


def test_text_config_dict_of_old_files_has_priority() -> None:
    config = {
        "model_type": "clip",
        "text_config": {},
        "text_config_dict": {"hidden_size": 768, "num_attention_heads": 12},
    }
    cfg = TransformersCLIP().read(ForeignCheckpoint({}, config)).cfg
    assert cfg is not None
    assert cfg.text_cfg.width == 768


def test_unknown_tensors_are_named() -> None:
    with pytest.raises(CheckpointError, match=r"logit_shift"):
        TransformersCLIP().read(ForeignCheckpoint({"logit_shift": torch.zeros(())}))


def test_a_query_without_its_key_is_named() -> None:
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(CheckpointError, match=r"q_proj.* needs .*k_proj.*missing"):
        TransformersCLIP().read(ForeignCheckpoint({name: torch.zeros(4, 4)}))


def test_a_written_folder_loads_with_its_processor(tmp_path: Path) -> None:
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=16, image_size=32)
    cfg = ModelCfg(24, vision, CLIPTextCfg(width=64, heads=1, layers=1), quick_gelu=True)
    convert(
        ConvertibleModel(build_model(cfg).state_dict(), cfg, PreprocessCfg(32)),
        tmp_path / "out",
        "transformers",
    )
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "out")
    image = Image.new("RGB", (40, 50), (255, 0, 0))
    inputs = processor(text=["a cat", "two small dogs"], images=image, return_tensors="pt", padding=True)
    theirs = transformers.CLIPModel.from_pretrained(tmp_path / "out").eval()
    ours = oneclip.load(tmp_path / "out", device="cpu")
    with torch.no_grad():
        expected = theirs(**inputs).logits_per_image
        logits, _ = ours.model.get_logits(
            ours.preprocess(image)[None], ours.tokenizer(["a cat", "two small dogs"])
        )
    assert torch.allclose(logits, expected, atol=1e-4)
