"""Reading the zip archives of PyTorch: TorchScript and `torch.save`, valid and hostile."""

from __future__ import annotations

import zipfile
from pathlib import Path

import forged
import pytest
import torch
from torch import Tensor, nn

from oneclip.checkpoint import read
from oneclip.checkpoint.readers.tensor_records import STORAGES
from oneclip.errors import CheckpointError

FOUR = {"0": forged.floats(1, 2, 3, 4)}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.mask = torch.ones(3)  # a tensor attribute that is neither a parameter nor a buffer

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x)) * self.mask


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(), Block(), nn.Sequential(Block()))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("context_length", torch.tensor(77))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x) * self.scale * torch.sigmoid(x)


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return Model().eval()


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_parameters_and_buffers_of_a_torchscript_archive_are_read(
    tmp_path: Path, module: nn.Module, how: str, dtype: torch.dtype
) -> None:
    made = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.ones(2, 3))
    made = made.to(dtype)
    torch.jit.save(made, tmp_path / "model.pt")
    found = read(tmp_path / "model.pt")
    expected = made.state_dict()
    del expected["input_resolution"], expected["context_length"]
    assert found.format == "torchscript"
    assert found.state_dict.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found.state_dict[key].dtype == tensor.dtype
        torch.testing.assert_close(found.state_dict[key], tensor, rtol=0, atol=0)
    assert found.metadata == {"activation": "quick_gelu", "input_resolution": 224, "context_length": 77}


@pytest.mark.parametrize("root", ["archive/", "ViT-B-32/", "ünï cödé/", "a.b-c/", ""])
def test_the_root_folder_has_any_name(tmp_path: Path, root: str) -> None:
    content = forged.record("__torch__.Model", weight=forged.tensor("0", (2, 2)))
    found = read(forged.archive(tmp_path / "m.pt", content, FOUR, root=root))
    assert found.format == "torchscript"
    assert found.state_dict["weight"].tolist() == [[1, 2], [3, 4]]


def test_tensors_of_nested_modules_are_read(tmp_path: Path) -> None:
    inner = forged.record(
        "__torch__.a.___torch_mangle_3.B",
        w=forged.call(
            forged.name("torch._utils", "_rebuild_parameter"),
            forged.tensor("0", (2,), offset=2, count=4),
            b"\x88N",
        ),
        training=b"\x88",
        name=forged.text("text"),
    )
    content = forged.record(
        "__torch__.A", inner=inner, n=forged.number(3), w=forged.tensor("0", (2, 2), stride=(1, 2))
    )
    found = read(forged.archive(tmp_path / "m.pt", content, FOUR)).state_dict
    assert {key: value.tolist() for key, value in found.items()} == {"w": [[1, 3], [2, 4]], "inner.w": [3, 4]}
    assert found["w"].untyped_storage().data_ptr() == found["inner.w"].untyped_storage().data_ptr()


def test_only_parameters_and_buffers_of_the_class_are_in_the_state_dict(tmp_path: Path) -> None:
    code = b'class A(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = ["b", ]\n  w : Tensor\n'
    one = forged.tensor("0", (4,))
    content = forged.record("__torch__.m.A", w=one, b=one, mask=one)
    path = forged.archive(tmp_path / "m.pt", content, FOUR, others={"code/__torch__/m.py": code})
    assert sorted(read(path).state_dict) == ["b", "w"]


@pytest.mark.parametrize(
    "storage",
    ["Half", "BFloat16", "Float", "Double", "Byte", "Char", "Short", "Int", "Long", "Bool", "ComplexFloat"],
)
def test_all_dtypes_are_read(tmp_path: Path, storage: str) -> None:
    dtype = STORAGES[f"{storage}Storage"]
    expected = torch.tensor([0, 1, 1, 0]).to(dtype)
    content = forged.record("__torch__.A", w=forged.tensor("0", (4,), storage=f"{storage}Storage"))
    data = expected.view(torch.uint8).numpy().tobytes() if storage != "Bool" else b"\0\1\1\0"
    found = read(forged.archive(tmp_path / "m.pt", content, {"0": data})).state_dict["w"]
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_an_empty_tensor_is_read(tmp_path: Path) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", (0, 3), stride=(3, 1), count=0))
    assert read(forged.archive(tmp_path / "m.pt", content, {"0": b""})).state_dict["w"].shape == (0, 3)


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (("os", "system"), "os.system"),
        (("posix", "system"), "posix.system"),
        (("builtins", "eval"), "builtins.eval"),
        (("builtins", "getattr"), "builtins.getattr"),
        (("torch", "load"), "torch.load"),
        (("torch.hub", "load"), "torch.hub.load"),
        (("torch", "UntypedStorage"), "torch.UntypedStorage"),
        (("torch._utils", "_rebuild_tensor_v2.__globals__"), "_rebuild_tensor_v2.__globals__"),
        (("torch._utils", "_rebuild_qtensor"), "_rebuild_qtensor"),
        (("collections", "Counter"), "collections.Counter"),
        (("__torch__x", "A"), "__torch__x.A"),
        (("x.__torch__", "A"), "x.__torch__.A"),
        (("torch.jit._pickle", "build_intlist"), "torch.jit._pickle.build_intlist"),
    ],
)
@pytest.mark.parametrize("kind", ["script", "state dict", "training"])
def test_other_globals_are_refused_and_named(
    tmp_path: Path, function: tuple[str, str], named: str, kind: str
) -> None:
    marker = tmp_path / "ran"
    gadget = forged.call(forged.name(*function), forged.text(f"touch {marker}"))
    content = {
        "script": forged.record("__torch__.A", w=forged.tensor("0", (4,)), x=gadget),
        "state dict": forged.mapping(w=forged.tensor("0", (4,)), x=gadget),
        "training": forged.mapping(state_dict=forged.mapping(w=forged.tensor("0", (4,))), optimizer=gadget),
    }[kind]
    path = forged.archive(tmp_path / "m.pt", content, FOUR)
    with pytest.raises(
        CheckpointError, match=r"m\.pt cannot be used: it refers to .*" + named.replace(".", r"\.")
    ):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "gadget",
    [
        forged.call(forged.name("torch", "FloatStorage"), forged.number(10)),
        forged.call(forged.text("text"), forged.number(10)),
        forged.name("__torch__.A", "B") + b"}" + forged.text("x") + b"Nsb",  # changes a class
        b"i" + b"os\nsystem\n",
        b"(" + forged.name("os", "system")[1:] + b"o",
        forged.text("x") + b"\x82\x01",  # an extension
        b"P1\n",  # a persistent id as text
        forged.number(1) + b"Q",
        b"h\x07",
    ],
)
def test_other_instructions_that_call_are_refused(tmp_path: Path, gadget: bytes) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", (4,)), x=gadget)
    with pytest.raises(CheckpointError, match="cannot be used"):
        read(forged.archive(tmp_path / "m.pt", content, FOUR))


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (5,), "count": 4},
        {"shape": (4,), "count": 4, "offset": 1},
        {"shape": (2, 2), "stride": (3, 1), "count": 4},
        {"shape": (4,), "offset": -1, "count": 4},
        {"shape": (-4,), "count": 4},
        {"shape": (2, 2), "stride": (-1, 1), "count": 4},
        {"shape": (2, 2), "stride": (2,), "count": 4},
        {"shape": (2**62, 4), "stride": (1, 1), "count": 4},
        {"shape": (2**32, 2**32), "stride": (0, 0), "count": 4},
        {"shape": (1000,), "stride": (0,), "count": 4},  # more numbers than there are
        {"shape": (4,), "offset": 2**63, "count": 4},
        {"shape": (1,) * 17, "count": 4},
        {"shape": (4,), "count": -4},
        {"shape": (4,), "count": 2**64},
        {"shape": (5,)},  # the pickle contradicts the size of the entry
        {"shape": (4,), "storage": "DoubleStorage"},
        {"shape": (4,), "storage": "QInt8Storage"},
        {"shape": (4,), "count": 2**40},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(tmp_path: Path, wrong: dict) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", **wrong))
    with pytest.raises(CheckpointError, match=r"m\.pt cannot be used"):
        read(forged.archive(tmp_path / "m.pt", content, FOUR))


@pytest.mark.parametrize("key", ["1", "../data.pkl", "/etc/passwd", "..", "", "a" * 300, "0\0"])
def test_missing_storages_are_refused(tmp_path: Path, key: str) -> None:
    content = forged.record("__torch__.A", w=forged.tensor(key, (4,)))
    with pytest.raises(CheckpointError, match="storage"):
        read(forged.archive(tmp_path / "m.pt", content, FOUR))


def test_modules_that_contain_themselves_are_refused(tmp_path: Path) -> None:
    itself = forged.name("__torch__", "A") + b")\x81q\x01" + forged.mapping(a=b"h\x01") + b"b"
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read(forged.archive(tmp_path / "m.pt", itself, FOUR))
    doubling = forged.record("__torch__.A", w=forged.tensor("0", (4,)))
    for place in range(40):  # 2 ** 40 paths to one tensor
        doubling += (
            b"q"
            + bytes([place])
            + b"0"
            + forged.record("__torch__.A", a=b"h" + bytes([place]), b=b"h" + bytes([place]))
        )
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read(forged.archive(tmp_path / "n.pt", doubling, FOUR))


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", (2**23,)))
    path = forged.archive(tmp_path / "m.pt", content, {"0": bytes(2**25)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    with pytest.raises(CheckpointError, match="would unpack to"):
        read(path)


def test_a_compressed_archive_is_read(tmp_path: Path) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", (2, 2)))
    path = forged.archive(tmp_path / "m.pt", content, FOUR, compression=zipfile.ZIP_DEFLATED)
    assert read(path).state_dict["w"].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [0, 1, 1000, 2**31])
def test_entries_with_a_wrong_size_are_refused(tmp_path: Path, compression: int, size: int) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", (4,)))
    path = forged.archive(tmp_path / "m.pt", content, FOUR, compression=compression)
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")  # of the last entry, which is the storage
    data[directory + 24 : directory + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"m\.pt"):
        read(path)


def test_entries_of_the_same_name_are_refused(tmp_path: Path) -> None:
    content = forged.record("__torch__.A", w=forged.tensor("0", (4,)))
    path = forged.archive(tmp_path / "m.pt", content, FOUR)
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("archive/data/0", forged.floats(5, 6, 7, 8))
    with pytest.raises(CheckpointError, match="two entries of the same name"):
        read(path)


def test_a_zip_file_of_another_program_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        file.writestr("image.png", b"")
    with pytest.raises(CheckpointError, match=r"not one that PyTorch wrote"):
        read(tmp_path / "m.pt")
