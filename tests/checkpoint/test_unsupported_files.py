"""Files without a model: the error explains what they are. Folders with a model in a subfolder are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import in_this_process
from tiny import tiny_cfg
from torch import Tensor

from oneclip import checkpoint
from oneclip.checkpoint import ConvertibleModel, convert
from oneclip.config import PreprocessCfg
from oneclip.errors import CheckpointError
from oneclip.model import build_model

State = dict[str, Tensor]


def model_weights() -> State:
    torch.manual_seed(0)
    return build_model(tiny_cfg()).state_dict()


def peft_adapter() -> State:
    """The tensors that `peft.PeftModel.save_pretrained` writes for a CLIPModel."""
    block = "base_model.model.{}_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (4, 16), "B": (16, 4)}
    return {
        block.format(t, part): torch.ones(shape) for t in ("text", "vision") for part, shape in shapes.items()
    }


def coop() -> State:
    """The tensors that CoOp saves: `prompt_learner.state_dict()`."""
    return {
        "ctx": torch.ones(4, 16),
        "token_prefix": torch.ones(3, 1, 16),
        "token_suffix": torch.ones(3, 72, 16),
    }


def stable_diffusion() -> State:
    return {
        "model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3),
        "first_stage_model.encoder.conv_in.weight": torch.ones(4, 3, 3, 3),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.ones(10, 4),
    }


def chinese_clip() -> State:
    state = {
        f"module.{name}": tensor for name, tensor in model_weights().items() if name.startswith("visual.")
    }
    state["module.bert.embeddings.word_embeddings.weight"] = torch.ones(10, 16)
    return state | {"module.text_projection": torch.ones(16, 16), "module.logit_scale": torch.ones(())}


def tower(*starts: str, strip: str = "") -> Callable[[], State]:
    def take() -> State:
        return {name.removeprefix(strip): t for name, t in model_weights().items() if name.startswith(starts)}

    return take


UNSUPPORTED: dict[str, tuple[Callable[[], State], str]] = {
    "LoRA": (peft_adapter, r"is a LoRA adapter.*merge_and_unload"),
    "CoOp": (coop, r"contains learned prompts \(CoOp"),
    "MaPLe": (
        lambda: (
            {f"prompt_learner.{name}": tensor for name, tensor in coop().items()}
            | {
                "image_encoder.conv1.weight": torch.ones(4, 3, 2, 2),
                "text_encoder.text_projection": torch.ones(4, 4),
            }
        ),
        r"contains learned prompts \(CoOp, MaPLe\)",
    ),
    "linear probe": (
        lambda: {"weight": torch.ones(5, 16), "bias": torch.ones(5)},
        "is one linear layer, from 16 features to 5 classes",
    ),
    "head": (lambda: {"fc.weight": torch.ones(5, 16)}, "is one linear layer, from 16 features to 5 classes"),
    "Stable Diffusion": (stable_diffusion, r"is a diffusion model \(Stable Diffusion\)"),
    "Chinese-CLIP": (chinese_clip, r"Chinese-CLIP's own code.*hf-hub:OFA-Sys/chinese-clip"),
    "image tower": (tower("visual."), r"contains only the image tower of a model.*pretrained_image_path"),
    "image tower without its prefix": (
        tower("visual.", strip="visual."),
        "contains only the image tower of a model",
    ),
    "text tower": (
        tower("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"),
        r"contains only the text tower of a model.*pretrained_text_path",
    ),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
@pytest.mark.parametrize("name", ["{}", "ViT-B-32:{}"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_error_explains_what_a_file_is(tmp_path: Path, kind: str, name: str, suffix: str) -> None:
    make, message = UNSUPPORTED[kind]
    path = tmp_path / f"m{suffix}"
    checkpoint.save(path, make())
    with pytest.raises(CheckpointError, match=rf"{re.escape(str(path))} .*{message}") as caught:
        checkpoint.load(name.format(path))
    assert "ViT-B-32:" not in str(caught.value)


def test_a_training_checkpoint_of_coop_is_recognized(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": coop(), "epoch": 50, "optimizer": {"lr": 0.1}, "val_result": 80.5},
        tmp_path / "m.tar-50",
    )
    with pytest.raises(CheckpointError, match="CoOp"):
        checkpoint.load(tmp_path / "m.tar-50")


def test_a_model_with_unmerged_lora_is_recognized(tmp_path: Path) -> None:
    lora = {"visual.transformer.resblocks.0.attn.lora_A": torch.ones(4, 32)}
    checkpoint.save(tmp_path / "m.pt", model_weights() | lora)
    with pytest.raises(CheckpointError, match="contains a model with separate LoRA layers"):
        checkpoint.load(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("file", "message"), [("adapter_config.json", "LoRA"), ("model_index.json", "diffusion")]
)
def test_the_error_explains_what_a_folder_is(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "tower"), [("CLIPTextModel", "text"), ("CLIPVisionModelWithProjection", "image")]
)
def test_a_single_tower_of_transformers_is_recognized(tmp_path: Path, kind: str, tower: str) -> None:
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"image_size": 32, "patch_size": 16} if tower == "image" else {"vocab_size": 99}
    model_class: Any = getattr(transformers, kind)
    model_class(model_class.config_class(**sizes, **config)).save_pretrained(tmp_path / "tower")
    with pytest.raises(CheckpointError, match=f"contains only the {tower} tower of a model"):
        checkpoint.load(tmp_path / "tower")


def test_unused_tensors_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = {"classifier.weight": torch.ones(5, 16), "classifier.bias": torch.ones(5), "step": torch.ones(1)}
    wrapped = {f"clip_model.{name}": tensor for name, tensor in model_weights().items()} | head
    checkpoint.save(tmp_path / "m.pt", wrapped, {"model_cfg": tiny_cfg().to_dict()})
    assert checkpoint.load(tmp_path / "m.pt", device="cpu").cfg == tiny_cfg()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/m.pt also contains classifier.* (2), step, not used"
    ]


def test_the_error_for_an_unknown_part_shows_how_to_select_it(tmp_path: Path) -> None:
    torch.save({"net": {"a.weight": torch.ones(3)}, "lr": 0.1}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"it has net, none of which looks like a model.*part='net'"):
        checkpoint.load(tmp_path / "m.pt")


def test_hyperparameters_of_lightning_are_read_as_metadata(tmp_path: Path) -> None:
    """Lightning pickles them as a class of its own with the state of a dict."""
    import sys
    import types

    module = types.ModuleType("lightning.fabric.utilities.data")
    module.AttributeDict = type("AttributeDict", (dict,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    packages = {module.__name__.rsplit(".", depth)[0]: types.ModuleType("p") for depth in (1, 2, 3)}
    sys.modules.update(packages | {module.__name__: module})
    try:
        content = {"state_dict": model_weights(), "hyper_parameters": module.AttributeDict(lr=0.1)}  # type: ignore[attr-defined]
        torch.save(content, tmp_path / "m.ckpt")
    finally:
        for name in (*packages, module.__name__):
            del sys.modules[name]
    found = checkpoint.read(tmp_path / "m.ckpt")
    assert found.metadata["hyper_parameters"] == {"lr": 0.1}
    assert found.state_dict.keys() == model_weights().keys()


def sentence_transformers_folder(folder: Path, kind: str = "CLIPModel", path: str = "0_CLIPModel") -> Path:
    """A folder as `SentenceTransformer.save` writes a CLIP."""
    folder.mkdir()
    cfg = tiny_cfg(quick_gelu=True)
    convert(
        ConvertibleModel(model_weights(), cfg, PreprocessCfg(size=32)), folder / "0_CLIPModel", "transformers"
    )
    modules = [{"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_a_sentence_transformers_folder_loads_its_subfolder(tmp_path: Path) -> None:
    loaded = checkpoint.load(sentence_transformers_folder(tmp_path / "st"), device="cpu")
    assert loaded.cfg == tiny_cfg(quick_gelu=True)
    assert loaded.home == tmp_path / "st" / "0_CLIPModel"
    expected = model_weights()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_sentence_transformers_repository_loads_its_subfolder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sentence_transformers_folder(tmp_path / "st")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with in_this_process(monkeypatch, tmp_path / "hub") as hub:
        hub.publish("sentence-transformers/clip", files)
        loaded = checkpoint.load("hf-hub:sentence-transformers/clip", device="cpu")
    assert loaded.cfg == tiny_cfg(quick_gelu=True)


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        ("Transformer", "", "without a CLIPModel"),
        ("CLIPModel", "../0_CLIPModel", "expected the name of a folder next to it"),
    ],
)
def test_sentence_transformers_without_clip_is_refused(
    tmp_path: Path, kind: str, path: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(sentence_transformers_folder(tmp_path / "st", kind, path))
