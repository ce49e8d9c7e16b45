"""fp16, int8 and OpenVINO: what is converted, and how far the result is from fp32."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import oneclip
from oneclip.errors import ConfigError
from oneclip.export import ExportRequest
from oneclip.export.calibration import calibration_batches
from oneclip.export.folder import describe_tower
from oneclip.export.fp16 import write_fp16
from oneclip.export.int8 import quantize, write_int8
from oneclip.export.onnx_export import write_onnx
from oneclip.export.openvino_export import write_openvino
from oneclip.export.towers import exported_tower
from oneclip.runtime.sessions import open_session
from tests.tiny import PIXELS, picture, write_tiny_model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> oneclip.Encoder:
    """Load a tiny CLIP."""
    return oneclip.load(write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.safetensors"), device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of two classes with images."""
    folder = tmp_path_factory.mktemp("data")
    for seed in range(8):
        path = folder / ("cat" if seed % 2 else "dog") / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        picture(seed).save(path)
    return folder


@pytest.fixture(scope="module")
def fp32(encoder: oneclip.Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the image tower in fp32."""
    tower = exported_tower(encoder, "image")
    path = tmp_path_factory.mktemp("fp32") / "vision_model.onnx"
    with torch.no_grad():
        write_onnx(
            tower.module.eval(),
            tower.example,
            path,
            input_name=tower.input_name,
            output_name=tower.output_name,
        )
    return path


@pytest.fixture(scope="module")
def fp16(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert it to fp16."""
    path = tmp_path_factory.mktemp("fp16") / "vision_model_fp16.onnx"
    write_fp16(fp32, path)
    return path


@pytest.fixture(scope="module")
def int8(encoder: oneclip.Encoder, fp32: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantize it, and accept the first result."""
    path = tmp_path_factory.mktemp("int8") / "vision_model_quantized.onnx"
    write_int8(fp32, path, side="image", encoder=encoder, request=ExportRequest(max_drop=2, check=data))
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Make preprocessed images."""
    return np.random.default_rng(0).standard_normal((6, 3, PIXELS, PIXELS), dtype=np.float32)


def run(path: Path, pixels: np.ndarray) -> Any:
    return onnxruntime.InferenceSession(str(path)).run(None, {"pixel_values": pixels})[0]


def weights(path: Path) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def test_norms_and_softmax_stay_in_fp32(fp16: Path) -> None:
    graph = onnx.shape_inference.infer_shapes(onnx.load(fp16)).graph
    types = {one.name: one.type.tensor_type.elem_type for one in graph.value_info}
    nodes = [node for node in graph.node if node.op_type in ("LayerNormalization", "Softmax", "ReduceL2")]
    assert len(nodes) > 4
    assert {types[node.output[0]] for node in nodes} == {TensorProto.FLOAT}


def test_matrices_are_in_fp16(fp16: Path) -> None:
    assert {value.dtype.name for value in weights(fp16).values() if value.ndim > 1} == {"float16"}


def test_input_and_output_of_fp16_are_fp32(fp16: Path) -> None:
    graph = onnx.load(fp16).graph
    types = [one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)]
    assert types == [TensorProto.FLOAT, TensorProto.FLOAT]


def test_embeddings_of_fp16_have_unit_length_in_fp32(fp16: Path, pixels: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(run(fp16, pixels), axis=1), 1, atol=1e-6)


def test_fp16_is_close_to_fp32(fp32: Path, fp16: Path, pixels: np.ndarray) -> None:
    assert (run(fp32, pixels) * run(fp16, pixels)).sum(1).min() > 0.99999


def test_file_of_fp16_passes_onnx_checker(fp16: Path) -> None:
    onnx.checker.check_model(str(fp16), full_check=True)


def test_int8_is_close_to_fp32(fp32: Path, int8: Path, pixels: np.ndarray) -> None:
    assert (run(fp32, pixels) * run(int8, pixels)).sum(1).min() > 0.999


def test_layers_between_first_and_last_are_in_int8(int8: Path) -> None:
    graph = onnx.load(int8).graph
    assert [node.op_type for node in graph.node if node.op_type in ("Conv", "ConvInteger")] == ["Conv"]
    constant = {one.name for one in graph.initializer}
    in_fp32 = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in constant]
    in_int8 = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert (len(in_fp32), len(in_int8)) == (1, 4)  # the projection; four matrices of the only block


def test_weights_have_7_bits_and_a_scale_per_output(int8: Path) -> None:
    found = weights(int8)
    quantized = {name: value for name, value in found.items() if value.dtype == np.int8 and value.ndim == 2}
    assert quantized
    for name, value in quantized.items():
        assert np.abs(value).max() <= 64
        assert found[name.replace("_quantized", "_scale")].shape == (value.shape[1],)


def test_weights_have_8_bits_where_7_differ_too_much(
    encoder: oneclip.Encoder, fp32: Path, data: Path, tmp_path: Path
) -> None:
    request = ExportRequest(max_drop=1e-9, check=data)
    write_int8(fp32, tmp_path / "x.onnx", side="image", encoder=encoder, request=request)
    matrices = [
        value
        for value in weights(tmp_path / "x.onnx").values()
        if value.dtype == np.uint8 and value.ndim == 2
    ]
    assert max(value.max() for value in matrices) > 200


def test_convolutions_are_calibrated(tmp_path: Path, pixels: np.ndarray) -> None:
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
    example = torch.zeros(2, 3, PIXELS, PIXELS)
    with torch.no_grad():
        write_onnx(tower.eval(), example, tmp_path / "x.onnx", input_name="pixel_values", output_name="y")
    batches = [{"pixel_values": pixels}]
    quantize(tmp_path / "x.onnx", tmp_path / "q.onnx", batches, weight_type="QInt8", reduce_range=True)
    operators = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert "QuantizeLinear" in operators
    assert "DynamicQuantizeLinear" not in operators
    expected, found = (run(tmp_path / name, pixels).reshape(-1) for name in ("x.onnx", "q.onnx"))
    assert np.dot(expected, found) / np.linalg.norm(expected) / np.linalg.norm(found) > 0.999


def test_tower_of_one_layer_is_refused(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "only")], "tower", [x], [y], [weight]
    )
    onnx.save(helper.make_model(graph), tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match="no layer between its first and its last"):
        quantize(tmp_path / "x.onnx", tmp_path / "q.onnx", [], weight_type="QInt8", reduce_range=True)


def test_calibration_images_are_those_of_the_user(encoder: oneclip.Encoder, data: Path) -> None:
    found = np.concatenate([one["pixel_values"] for one in calibration_batches(encoder, "image", data)])
    expected = [encoder.preprocess(Image.open(path)).numpy() for path in sorted(data.rglob("*.png"))]
    assert sorted(one.tobytes() for one in found) == sorted(one.tobytes() for one in expected)


def test_calibration_images_are_bytes_for_a_tower_that_normalizes_them(
    encoder: oneclip.Encoder, data: Path
) -> None:
    assert {
        one["pixel_values"].dtype.name for one in calibration_batches(encoder, "image", data, uint8=True)
    } == {"uint8"}


def test_openvino_replaces_the_onnx_file_with_equal_embeddings(
    fp32: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    (tmp_path / fp32.name).write_bytes(fp32.read_bytes())
    tower = describe_tower(tmp_path, "onnx", fp32.name, "pixel_values", "image_embeds", [fp32.name])
    towers = write_openvino(tmp_path, {"image": {"fp32": tower}, "text": {}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vision_model.bin", "vision_model.xml"]
    session = open_session("openvino", tmp_path / towers["image"]["fp32"]["file"], "image_embeds", "cpu")
    np.testing.assert_allclose(session.run({"pixel_values": pixels}), run(fp32, pixels), atol=1e-5)
