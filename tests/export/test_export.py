"""Exports equal the model in torch, leave it unchanged, and are written whole or not at all."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import oneclip
from oneclip.encoder import Encoder
from oneclip.encoder import load as load_encoder
from oneclip.errors import ConfigError, DataError, MissingExtraError, OutputError
from oneclip.export import ExportReport, export
from oneclip.export import onnx_export as onnx_export_module
from oneclip.export.onnx_export import write_onnx
from oneclip.export.parity_inputs import heldout_pairs
from oneclip.export.parity_report import compare_embeddings, drops
from tests.export.wrong_tower import write_wrong_tower
from tests.tiny import picture, write_tiny_model

IMAGES = [picture(seed, size) for seed, size in enumerate([(40, 36), (9, 70), (1, 1)])]
TEXTS = ["a", "a photo of a cat", "word " * 100]


@dataclass
class Exported:
    """An export, and what the model was before."""

    encoder: Encoder
    folder: Path
    report: ExportReport
    before: dict[str, Tensor]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load_encoder(str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")))


@pytest.fixture(scope="module")
def exported(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A folder with bytes as input and the weights in files of their own, of a model that is being trained."""
    before = {name: tensor.clone() for name, tensor in encoder.model.state_dict().items()}
    encoder.model.train()
    encoder.model.visual.eval()
    encoder.model.visual.conv1.weight.requires_grad_(False)
    folder = tmp_path_factory.mktemp("export") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export_module, "MAX_INLINE_BYTES", 1000)
        report = export(encoder, folder, uint8_input=True)
    return Exported(encoder, folder, report, before)


def test_an_export_equals_the_model_in_torch(exported: Exported) -> None:
    runtime = oneclip.load(exported.folder)
    with torch.no_grad():
        pixels = torch.stack([exported.encoder.preprocess(image) for image in IMAGES])
        ids = exported.encoder.tokenizer(TEXTS, exported.encoder.context_length, overflow="truncate")
        images = nn.functional.normalize(exported.encoder.model.encode_image(pixels), dim=-1).numpy()
        texts = nn.functional.normalize(exported.encoder.model.encode_text(ids), dim=-1).numpy()
    np.testing.assert_allclose(runtime.encode_images(IMAGES), images, atol=1e-5)
    np.testing.assert_allclose(runtime.encode_texts(TEXTS, overflow="truncate"), texts, atol=1e-5)


def test_weights_beyond_the_limit_are_in_a_file_beside_the_tower(exported: Exported) -> None:
    described = json.loads((exported.folder / "oneclip.json").read_text())["towers"]
    for side, name in (("image", "vision_model"), ("text", "text_model")):
        assert set(described[side]["fp32"]["files"]) == {f"{name}.onnx", f"{name}.onnx_data"}


def test_inputs_and_outputs_have_the_names_of_transformers_js(exported: Exported) -> None:
    vision = onnx.load(exported.folder / "vision_model.onnx", load_external_data=False).graph
    text = onnx.load(exported.folder / "text_model.onnx", load_external_data=False).graph
    assert [vision.input[0].name, vision.output[0].name] == ["pixel_values", "image_embeds"]
    assert [text.input[0].name, text.output[0].name] == ["input_ids", "text_embeds"]


def test_the_model_keeps_its_weights_modes_and_gradients(exported: Exported) -> None:
    model = exported.encoder.model
    assert all(torch.equal(tensor, exported.before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert not model.visual.training
    assert {name for name, one in model.named_parameters() if not one.requires_grad} == {
        "visual.conv1.weight"
    }


def test_the_report_compares_images_and_texts(exported: Exported) -> None:
    found = json.loads((exported.folder / "parity.json").read_text())
    assert found == exported.report.parity
    assert found["drop"] < 1e-9
    for side in ("images", "texts"):
        assert found["precisions"]["fp32"][side]["relative_error"] < 1e-5
        assert set(found["precisions"]["fp32"][side]["medians"]) == {
            *(f"batches of {size}" for size in (1, 2, 7)),
            "held out",
        }
    assert f"{found['precisions']['fp32']['images']['inputs']} images" in (
        exported.folder / "parity.md"
    ).read_text(encoding="utf-8")


def test_an_exported_folder_cannot_be_exported(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is an exported model already"):
        export(exported.folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"to": "tflite"}, ConfigError, "unknown target 'tflite'; available: onnx, openvino"),
        ({"precisions": ("int4",)}, ConfigError, "unknown precision 'int4'; available: fp32, fp16, int8"),
        ({"precisions": ()}, ConfigError, "unknown precision nothing"),
        ({"opset": 11}, ConfigError, "opset is 11; expected 18 to"),
        ({"check": "nosuch"}, DataError, "nosuch does not exist"),
    ],
    ids=["target", "precision", "no precision", "opset", "data"],
)
def test_a_wrong_option_is_one_error_and_nothing_is_written(
    encoder: Encoder, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(encoder, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_extra(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"needs onnxscript.*\[export\]"):
        export(encoder, tmp_path / "out")


def test_an_existing_folder_is_an_error_before_the_work(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="exists and is not empty"):
        export(encoder, tmp_path)


def test_a_model_in_another_precision_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    quantized = Encoder(
        encoder.model, encoder.preprocess, encoder.tokenizer, encoder.cfg, name="tiny", precision="bf16"
    )
    with pytest.raises(ConfigError, match="the model is in bf16 on cpu; load it in fp32"):
        export(quantized, tmp_path / "out")


def test_a_tower_that_differs_is_written_only_with_force(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["oneclip.export.export"], "write_onnx", write_wrong_tower)
    with pytest.raises(ConfigError, match=r"was not written: .* more than 0\.001 \(the worst of the"):
        export(encoder, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert export(encoder, tmp_path / "out", force=True).parity["drop"] > 0.001
    assert (tmp_path / "out" / "oneclip.json").is_file()


def test_the_model_is_unchanged_after_an_error(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys.modules["oneclip.export.export"], "write_onnx", fail)
    modes = [module.training for module in encoder.model.modules()]
    with pytest.raises(OutputError, match="No space left"):
        export(encoder, tmp_path / "out")
    assert [module.training for module in encoder.model.modules()] == modes


class EigenvaluesTower(nn.Module):
    """Tower with an operator that ONNX does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, :, None] * x[:, None]).real


def test_an_operator_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"EigenvaluesTower .*cannot be exported.*eig"):
        write_onnx(
            EigenvaluesTower(), torch.zeros(2, 4), tmp_path / "x.onnx", input_name="x", output_name="y"
        )


def test_differences_of_every_batch_size_count() -> None:
    expected = np.eye(4, dtype=np.float32)
    wrong = np.roll(expected, 1, axis=1)
    found = compare_embeddings({"batches of 1": (expected, wrong), "batches of 7": (expected[[0] * 9],) * 2})
    assert (found["inputs"], found["worst_cosine"], found["median_cosine"]) == (13, 0.0, 1.0)
    assert found["relative_error"] == pytest.approx(2**0.5)
    drop, reason = max(drops({"images": found, "texts": found}, "int8"))
    assert (drop, "batches of 1" in reason) == (1.0, True)
    assert max(drops({"images": found, "texts": found}, "fp32"))[0] == 1.0


def test_the_users_images_are_ranked_among_their_classes_or_captions(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        picture(number).save(tmp_path / "images" / name / "1.png")
    (classes,) = heldout_pairs(tmp_path / "images")
    assert all(name in text for name, text in zip(("cat", "dog"), classes.texts, strict=True))
    assert classes.right == [frozenset([0]), frozenset([1])]
    table = tmp_path / "pairs.csv"
    table.write_text("filepath,caption\nimages/cat/1.png,one\nimages/dog/1.png,two\nimages/dog/1.png,one\n")
    (captions,) = heldout_pairs(table)
    assert [sorted(captions.texts[i] for i in row) for row in captions.right] == [["one"], ["one", "two"]]


@pytest.mark.parametrize(("exported_recall", "count"), [(0.98, 1), (0.99, 0), (1.0, 0)])
def test_a_fall_of_recall_counts_if_it_is_more_than_one_image(exported_recall: float, count: int) -> None:
    same = {"worst_cosine": 1.0, "medians": {}}
    found = {
        "images": same,
        "texts": same,
        "recall": {"photos": {"images": 100, "torch": 1.0, "exported": exported_recall}},
    }
    assert len(drops(found, "int8")) == count
