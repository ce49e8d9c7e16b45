"""Encoder over an exported folder, against the arithmetic of NumPy, and what is refused of a folder."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny

pytest.importorskip("onnx", reason="needs the extra oneclip[export]")

from small_export import DIM, PIXELS, SmallExport, write_small_export

import oneclip
from oneclip.errors import CheckpointError, ConfigError, OneCLIPError, ShapeError, TextTooLongError
from oneclip.runtime import RuntimeEncoder

TEXTS = ["a cat", "a dog", "", "a long text about the sun and the sea", "a cat"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallExport:
    return write_small_export(tmp_path_factory.mktemp("small") / "exported")


@pytest.fixture(scope="module")
def encoder(small: SmallExport) -> RuntimeEncoder:
    return oneclip.load(small.folder)  # type: ignore[return-value]


def pictures(count: int) -> list:
    return [tiny.picture(seed, (40 + seed, 36)) for seed in range(count)]


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_images_have_the_embeddings_of_the_tower(
    small: SmallExport, encoder: RuntimeEncoder, batch_size: int
) -> None:
    found = encoder.encode_images(pictures(7), batch_size=batch_size)
    np.testing.assert_allclose(found, small.images(pictures(7)), atol=1e-5)


def test_texts_have_the_embeddings_of_the_tower(small: SmallExport, encoder: RuntimeEncoder) -> None:
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), small.texts(TEXTS), atol=1e-5)


def test_nothing_has_no_embeddings(encoder: RuntimeEncoder) -> None:
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).shape == (0, DIM)


def test_probabilities_are_the_softmax_of_scaled_cosines(small: SmallExport, encoder: RuntimeEncoder) -> None:
    logits = np.exp(20 * small.images(pictures(2)) @ small.texts(["a cat", "a dog"]).T)
    found = [dict(one) for one in encoder.classify(pictures(2), ["a cat", "a dog"])]
    expected = logits / logits.sum(axis=1, keepdims=True)
    np.testing.assert_allclose([[one["a cat"], one["a dog"]] for one in found], expected, atol=1e-5)


def test_probabilities_with_a_bias_are_independent(tmp_path: Path) -> None:
    small = write_small_export(tmp_path / "exported", logit_bias=-2.0)
    found = dict(oneclip.load(small.folder).classify(tiny.picture(), ["a cat"]))
    logit = 20 * (small.images([tiny.picture()]) @ small.texts(["a cat"]).T)[0, 0] - 2
    assert found["a cat"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_embeddings_of_several_templates_are_averaged(small: SmallExport, encoder: RuntimeEncoder) -> None:
    found = encoder.encode_labels(["cat", "dog"], ["a {}", "the {}"])
    mean = small.texts(["a cat", "the cat"]).mean(axis=0), small.texts(["a dog", "the dog"]).mean(axis=0)
    expected = np.stack(mean) / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_streamed_images_are_those_of_one_call(encoder: RuntimeEncoder) -> None:
    parts = list(encoder.stream_images(iter(pictures(5)), batch_size=2))
    found = np.concatenate([part.features for part in parts])
    np.testing.assert_allclose(found, encoder.encode_images(pictures(5)), atol=1e-6)


def test_similarity_takes_features_and_what_they_are_made_of(encoder: RuntimeEncoder) -> None:
    features = encoder.encode_images(pictures(2)), encoder.encode_texts(TEXTS)
    np.testing.assert_allclose(
        encoder.similarity(pictures(2), TEXTS), encoder.similarity(*features), atol=1e-6
    )


def test_a_text_that_is_too_long_is_refused(encoder: RuntimeEncoder) -> None:
    with pytest.raises(TextTooLongError):
        encoder.encode_texts("cat " * 100)


@pytest.mark.parametrize("duplicate", [copy.copy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
def test_a_copy_encodes_as_the_original(
    encoder: RuntimeEncoder, duplicate: Callable[[RuntimeEncoder], RuntimeEncoder]
) -> None:
    encoder.encode_texts("a cat")
    np.testing.assert_array_equal(duplicate(encoder).encode_texts("a cat"), encoder.encode_texts("a cat"))


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 3, PIXELS, PIXELS)), np.zeros((3, PIXELS, PIXELS), np.float32), [0.0]]
)
def test_pixels_of_another_shape_or_type_are_refused(encoder: RuntimeEncoder, pixels: object) -> None:
    with pytest.raises(ShapeError, match=r"takes an array \(B, 3, 16, 16\) of float32"):
        encoder.encode_pixels(pixels)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["explain", "stream_captions", "model"])
def test_what_only_a_model_in_torch_has_is_named(encoder: RuntimeEncoder, name: str) -> None:
    with pytest.raises(ConfigError, match=f"exported model, which has no '{name}'"):
        getattr(encoder, name)
    assert not hasattr(encoder, name)


@pytest.mark.parametrize(
    ("given", "precision"),
    [(None, "fp32"), ("auto", "fp32"), ("fp32", "fp32"), ("int8", "onnx-int8"), ("onnx-int8", "onnx-int8")],
)
def test_precisions_are_those_of_the_folder(tmp_path: Path, given: str | None, precision: str) -> None:
    small = write_small_export(tmp_path / "exported", ("int8", "fp32"))
    assert oneclip.load(small.folder, precision=given).precision == precision


def change_byte(folder: Path) -> None:
    file = folder / "text_model.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: (folder / "text_model.onnx").unlink(), "text_model.onnx is missing"),
    "cut": (lambda folder: (folder / "text_model.onnx").write_bytes(b"1"), "was changed: it has 1 bytes"),
    "changed": (change_byte, "text_model.onnx was changed: its SHA-256"),
    "newer": (lambda folder: describe(folder, format=2), "update oneclip"),
    "no format": (lambda folder: describe(folder, format=None), "has the format None"),
    "no towers": (lambda folder: describe(folder, towers={}), "is damaged"),
    "outside": (
        lambda folder: replace(folder, "text_model.onnx", "../text_model.onnx"),
        "outside of the folder",
    ),
    "runtime": (lambda folder: replace(folder, '"onnx"', '"tensorrt"'), "available: onnx, openvino"),
    "not JSON": (lambda folder: (folder / "oneclip.json").write_text("{"), "oneclip.json"),
}


def describe(folder: Path, **changes: object) -> None:
    file = folder / "oneclip.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def replace(folder: Path, old: str, new: str) -> None:
    file = folder / "oneclip.json"
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_is_damaged_is_refused(tmp_path: Path, case: str) -> None:
    damage, message = BAD[case]
    small = write_small_export(tmp_path / "exported")
    damage(small.folder)
    with pytest.raises(OneCLIPError, match=message):
        oneclip.load(small.folder).encode_texts("a cat")


def test_an_opset_that_the_runtime_does_not_know_is_named(tmp_path: Path) -> None:
    import onnx

    small = write_small_export(tmp_path / "exported")
    file = small.folder / "text_model.onnx"
    model = onnx.load(file)
    model.opset_import[0].version = 999
    model.ir_version = 99
    onnx.save(model, file)
    description = json.loads((small.folder / "oneclip.json").read_text())
    tower = description["towers"]["text"]["fp32"]
    tower["files"]["text_model.onnx"] = {"bytes": file.stat().st_size, "sha256": ""}
    small.describe(towers=description["towers"])
    with pytest.raises(CheckpointError, match="Update onnxruntime"):
        oneclip.load(small.folder).encode_texts("a cat")


@pytest.mark.parametrize("option", [{"image_size": 32}, {"device": "tpu"}, {"precision": "fp16"}])
def test_an_option_that_an_export_does_not_have_is_refused(small: SmallExport, option: dict) -> None:
    with pytest.raises(ConfigError):
        oneclip.load(small.folder, **option)
