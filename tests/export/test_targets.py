"""Folder layouts of Immich, transformers.js and Core ML, read as these applications read them."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from tokenizers import Tokenizer

import oneclip
from oneclip.errors import ConfigError, MissingExtraError
from oneclip.export import ExportRequest, export
from oneclip.export.coreml import export_program, require_coremltools, write_coreml
from oneclip.export.immich import rename_inputs, write_immich
from oneclip.export.onnx_export import write_onnx
from oneclip.export.tokenizer_json import write_tokenizer_json
from oneclip.export.towers import exported_tower
from oneclip.export.transformersjs import write_transformersjs
from oneclip.text.clip.tokenizer import CLIPTokenizer
from tests.parity.install import COREML, installed
from tests.tiny import PIXELS, picture, write_tiny_coca, write_tiny_model

TEXTS = ("a photo of a cat", "Two  Dogs\ton a field!", "un café, s'il vous plaît", "many words " * 60)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> oneclip.Encoder:
    """Load a tiny CLIP."""
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"), device="cpu")


@pytest.fixture(scope="module", autouse=True)
def towers_written_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Write each tower of the tiny CLIP with torch once, which takes seconds, and copy it for every export."""
    folder, write = tmp_path_factory.mktemp("towers"), write_onnx

    def write_or_copy(tower: Any, example: Any, path: Path, **options: Any) -> None:
        if not (folder / path.name).exists():
            write(tower, example, folder / path.name, **options)
        shutil.copy(folder / path.name, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[export.__module__], "write_onnx", write_or_copy)
        yield


@pytest.fixture(scope="module")
def immich(encoder: oneclip.Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export it for Immich."""
    return export(encoder, tmp_path_factory.mktemp("immich") / "ViT-B-32__openai", to="immich").folder


@pytest.fixture(scope="module")
def transformersjs(encoder: oneclip.Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export it for transformers.js."""
    return export(encoder, tmp_path_factory.mktemp("js") / "js", to="transformersjs").folder


def run(path: Path, **inputs: np.ndarray) -> np.ndarray:
    """Run an ONNX file on inputs by name; it has one output."""
    (found,) = onnxruntime.InferenceSession(str(path)).run(None, inputs)
    return found


def test_immichs_steps_give_the_embedding_of_an_image(encoder: oneclip.Encoder, immich: Path) -> None:
    cfg = json.loads((immich / "visual" / "preprocess_cfg.json").read_text())
    image = picture(size=(PIXELS, PIXELS))  # without a resize, whose rounding differs
    pixels = (np.asarray(image, np.float32) / 255 - np.float32(cfg["mean"])) / np.float32(cfg["std"])
    found = run(immich / "visual" / "model.onnx", image=pixels.transpose(2, 0, 1)[None].astype(np.float32))
    np.testing.assert_allclose(found, encoder.encode_images([image]), atol=1e-5)


def test_immich_reads_the_size_of_the_images_as_the_model_does(immich: Path) -> None:
    cfg = json.loads((immich / "visual" / "preprocess_cfg.json").read_text())
    assert (cfg["size"], cfg["resize_mode"], cfg["interpolation"]) == (
        [PIXELS, PIXELS],
        "shortest",
        "bicubic",
    )


@pytest.mark.parametrize("text", TEXTS)
def test_immichs_steps_give_the_embedding_of_a_text(
    encoder: oneclip.Encoder, immich: Path, text: str
) -> None:
    config = json.loads((immich / "config.json").read_text())
    length = config["text_cfg"]["context_length"]
    padding = json.loads((immich / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(immich / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=padding, pad_id=tokenizer.token_to_id(padding))
    tokenizer.enable_truncation(length)
    ids = np.array([tokenizer.encode(" ".join(text.split())).ids], np.int32)
    found = run(immich / "textual" / "model.onnx", text=ids)
    np.testing.assert_allclose(found, encoder.encode_texts([text], overflow="truncate"), atol=1e-5)


def test_an_export_for_immich_has_no_files_of_the_other_layout(immich: Path) -> None:
    assert sorted(path.name for path in immich.iterdir() if path.suffix == ".onnx") == []


@pytest.mark.parametrize("layout", ["immich", "transformersjs"])
def test_an_export_for_an_application_also_runs_here(
    encoder: oneclip.Encoder, layout: str, request: pytest.FixtureRequest
) -> None:
    model = oneclip.load(request.getfixturevalue(layout))
    expected = encoder.similarity([picture()], ["a cat", "a dog"])
    np.testing.assert_allclose(model.similarity([picture()], ["a cat", "a dog"]), expected, atol=1e-5)


def test_immich_gets_one_precision(encoder: oneclip.Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one"):
        write_immich(tmp_path, {}, encoder=encoder, request=ExportRequest(precisions=("fp32", "int8")))


@pytest.mark.parametrize("target", ["immich", "transformersjs"])
def test_a_preprocessing_that_the_application_does_not_have_is_refused(
    encoder: oneclip.Encoder, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder.preprocess_cfg, "resize_mode", "longest")
    with pytest.raises(ConfigError, match="'longest'"):
        export(encoder, tmp_path / "out", to=target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [write_immich, write_transformersjs])
def test_an_application_that_normalizes_images_gets_no_tower_for_bytes(
    encoder: oneclip.Encoder, write: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="uint8-input"):
        write(tmp_path, {}, encoder=encoder, request=ExportRequest(uint8_input=True))


def test_transformersjs_finds_towers_tokenizer_and_processor(transformersjs: Path) -> None:
    names = {path.relative_to(transformersjs).as_posix() for path in transformersjs.rglob("*")}
    assert names >= {
        "config.json",
        "onnx/text_model.onnx",
        "onnx/vision_model.onnx",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_transformersjs_loads_the_classes_of_clip(transformersjs: Path) -> None:
    assert json.loads((transformersjs / "config.json").read_text())["model_type"] == "clip"


def test_a_tower_that_reads_padding_gets_the_padding_it_was_trained_with(tmp_path: Path) -> None:
    coca = oneclip.load(write_tiny_coca(tmp_path / "coca"), device="cpu")
    write_tokenizer_json(coca, tmp_path, "Immich")
    padding = json.loads((tmp_path / "tokenizer_config.json").read_text())["pad_token"]
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id(padding) == 0


def test_the_cleaning_of_the_model_becomes_a_part_of_the_file(
    encoder: oneclip.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "tokenizer", CLIPTokenizer(clean="canonicalize"))
    monkeypatch.setattr(encoder.cfg.text_cfg, "tokenizer_kwargs", {"clean": "canonicalize"})
    write_tokenizer_json(encoder, tmp_path, "transformers.js")
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("Snake_case,  (done)!").ids == tokenizer.encode("snake case done").ids


def test_a_tokenizer_with_a_step_that_its_file_lacks_is_refused(
    encoder: oneclip.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "tokenizer", CLIPTokenizer(clean="canonicalize"))
    with pytest.raises(ConfigError, match="a step that tokenizer"):
        write_tokenizer_json(encoder, tmp_path, "transformers.js")


def test_weights_beside_a_tower_get_the_name_that_immich_looks_for(tmp_path: Path) -> None:
    weights = np.arange(1000, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", 1000])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", 1000])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "tower.onnx", save_as_external_data=True, location="tower.onnx_data")
    (tmp_path / "visual").mkdir()
    files = ["tower.onnx", "tower.onnx_data"]
    tower = {"file": "tower.onnx", "files": dict.fromkeys(files)}
    written = rename_inputs(tmp_path, tower, tmp_path / "visual" / "model.onnx", "image")
    assert written == ["visual/model.onnx", "visual/model.onnx_data"]
    for name in files:
        (tmp_path / name).unlink()
    np.testing.assert_array_equal(
        run(tmp_path / "visual" / "model.onnx", image=np.zeros((1, 1000), np.float32))[0], weights
    )


def test_core_ml_is_refused_in_int8(encoder: oneclip.Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fp32 and fp16, not in int8"):
        write_coreml(tmp_path, {}, encoder=encoder, request=SimpleNamespace(precisions=("int8",)))


def test_core_ml_names_its_extra(
    encoder: oneclip.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingExtraError, match="coreml"):
        require_coremltools()


def test_the_program_for_core_ml_computes_what_the_tower_does(encoder: oneclip.Encoder) -> None:
    tower = exported_tower(encoder, "text")
    tower.module.eval()
    with torch.no_grad():
        program = export_program(tower)
        assert not [node for node in program.graph.nodes if "alias" in str(node.target)]
        found, expected = program.module()(tower.example[1:]), tower.module(tower.example[1:])
    torch.testing.assert_close(found, expected)


def test_a_core_ml_package_has_the_input_and_output_of_its_tower(
    encoder: oneclip.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed(COREML):
        pytest.skip("run: python tests/parity/install.py")
    monkeypatch.setattr(sys, "path", [*sys.path, str(COREML)])
    monkeypatch.setattr("oneclip.export.coreml.FILES", {"image": "vision_model"})  # one tower is seconds
    write_coreml(tmp_path, {}, encoder=encoder, request=ExportRequest())  # checks names and shapes
    assert {"vision_model.mlpackage", "coreml.json", "tokenizer.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
