"""`oneclip embed`: what is in the file, what happens to it when something goes wrong, and going on afterwards."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commandline import Run
from tiny import DIM, picture, write_tiny_model

import oneclip
from oneclip.engine import Towers


def test_npz_has_names_and_vectors_side_by_side(run: Run, pictures: Path, model: Path) -> None:
    code, out, err = run("embed", pictures, "-o", "vectors.npz", "--model", model)
    assert (code, out) == (0, "")
    assert "8 pictures" in err
    content = np.load("vectors.npz")
    paths = sorted(map(str, pictures.glob("*.png")))
    assert content["names"].tolist() == paths
    assert content["vectors"].dtype == np.float32
    np.testing.assert_allclose(content["vectors"], oneclip.load(model).encode_images(paths), atol=1e-5)
    assert (str(content["model"]), str(content["precision"])) == (str(model), "fp32")
    assert not Path("vectors.npz.partial").exists()


def test_parquet_has_the_same(run: Run, pictures: Path, model: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("embed", pictures, "-o", "vectors.npz", "--model", model).code == 0
    assert run("embed", pictures, "-o", "vectors.parquet", "--model", model).code == 0
    table, content = parquet.read_table("vectors.parquet"), np.load("vectors.npz")
    assert table["name"].to_pylist() == content["names"].tolist()
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), content["vectors"])
    assert table.schema.metadata[b"oneclip.model"] == str(model).encode()


def test_folders_are_walked_and_what_is_hidden_is_not(run: Run, pictures: Path, model: Path) -> None:
    for name in ("sub/deep/a.JPG", "sub/b.webp", ".hidden/c.png", "sub/.d.png"):
        path = pictures / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(path)
    (pictures / "notes.txt").write_text("no picture", encoding="utf-8")
    arguments = ("embed", "pictures/sub", pictures / "cat.png", "./pictures/cat.png", pictures)
    assert run(*arguments, "-o", "vectors.npz", "--model", model).code == 0
    names = np.load("vectors.npz")["names"].tolist()
    assert names[:3] == ["pictures/sub/b.webp", "pictures/sub/deep/a.JPG", "pictures/cat.png"]
    assert len(names) == len(set(names)) == 2 + 8


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("vectors.csv", 2, ".npz or .parquet"),
        ("vectors", 2, ".npz or .parquet"),
        ("missing/vectors.npz", 1, "no folder missing"),
        ("folder.npz", 1, "is a folder"),
    ],
)
def test_an_impossible_output_is_found_before_the_work(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch, output: str, code: int, message: str
) -> None:
    Path("folder.npz").mkdir()
    monkeypatch.setattr("oneclip.encoder.load", lambda *a, **k: pytest.fail("the model was loaded"))
    result = run("embed", pictures, "-o", output)
    assert result.code == code
    assert message in result.err


def test_parquet_without_its_library_names_the_extra(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.cli.vectors.find_spec", lambda name: None)
    code, _, err = run("embed", pictures, "-o", "vectors.parquet")
    assert code == 1
    assert "pip install 'oneclip[parquet]'" in err


@pytest.mark.parametrize("output", ["vectors.npz", "vectors.parquet"])
def test_a_full_disk_leaves_the_old_file(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    pytest.importorskip("pyarrow")
    Path(output).write_bytes(b"old")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("numpy.savez", full)
    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    code, _, err = run("embed", pictures, "-o", output, "--model", model)
    assert code == 1
    assert err.count("\n") == 1
    assert f"{output} could not be written: No space left on device" in err
    assert Path(output).read_bytes() == b"old"
    assert not list(Path().glob(".*.tmp"))


def test_an_unreadable_picture_is_an_error_and_the_rest_is_kept(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    arguments = ("embed", pictures, "-o", "vectors.npz", "--model", model, "--batch-size", 4)
    code, _, err = run(*arguments)
    assert code == 1
    assert "broken.png" in err
    assert "--skip" in err
    assert not Path("vectors.npz").exists()
    encoded = watch(monkeypatch)
    code, _, err = run(*arguments, "--skip")
    assert code == 3
    assert "going on: 3 of 9" in err
    assert "skipped pictures/broken.png" in err
    assert len(np.load("vectors.npz")["names"]) == 8
    assert sum(encoded) == 1 + 5  # one for the fixed picture


# ---------------------------------------------------------------------------------------- stopping and going on


def watch(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """The sizes of the batches that go through the model; after so many comes Ctrl-C."""
    sizes: list[int] = []
    image = Towers.image

    def watched(self: Towers, pixels: object) -> object:
        if stop_after is not None and len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(pixels))  # type: ignore[arg-type]
        return image(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(Towers, "image", watched)
    return sizes


@pytest.fixture
def stopped(run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """An embedding that was interrupted after four of eight pictures; the arguments to go on with."""
    arguments = ("embed", pictures, "-o", "vectors.npz", "--batch-size", 2, "--model")
    Path("vectors.npz").write_bytes(b"old")
    with monkeypatch.context() as patch:
        watch(patch, stop_after=3)
        code, _, err = run(*arguments, model)
    assert code == 130
    assert "4 of 8 pictures are kept" in err
    assert Path("vectors.npz").read_bytes() == b"old"
    return arguments


def test_the_same_command_goes_on_and_ends_the_same(
    run: Run, model: Path, stopped: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = watch(monkeypatch)
    assert "going on: 4 of 8" in run(*stopped, model).err
    assert encoded == [1, 2, 2]
    continued = np.load("vectors.npz")
    assert run(*stopped, model).code == 0
    unbroken = np.load("vectors.npz")
    assert continued["names"].tolist() == unbroken["names"].tolist()
    np.testing.assert_allclose(continued["vectors"], unbroken["vectors"], atol=1e-5)
    assert not Path("vectors.npz.partial").exists()


def test_a_picture_that_has_changed_is_encoded_again(
    run: Run, model: Path, stopped: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(7).save("pictures/apple.png")
    encoded = watch(monkeypatch)
    assert run(*stopped, model).code == 0
    assert sum(encoded) == 1 + 5
    index = np.load("vectors.npz")["names"].tolist().index("pictures/apple.png")
    expected = oneclip.load(model).encode_images(picture(7))[0]
    np.testing.assert_allclose(np.load("vectors.npz")["vectors"][index], expected, atol=1e-5)


def test_vectors_of_another_model_under_the_same_name_are_not_mixed_in(
    run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_model(tmp_path / "model.safetensors", seed=1)
    arguments = ("embed", pictures, "-o", "vectors.npz", "--batch-size", 2, "--model", model)
    with monkeypatch.context() as patch:
        watch(patch, stop_after=3)
        assert run(*arguments).code == 130
    write_tiny_model(tmp_path / "model.safetensors", seed=2)
    code, _, err = run(*arguments)
    assert code == 0
    assert "another model: starting anew" in err
    content = np.load("vectors.npz")
    expected = oneclip.load(model).encode_images(content["names"].tolist())
    np.testing.assert_allclose(content["vectors"], expected, atol=1e-5)


def test_a_damaged_part_is_made_again(run: Run, model: Path, stopped: tuple[object, ...]) -> None:
    for part in Path("vectors.npz.partial").glob("*.npz"):
        part.write_bytes(part.read_bytes()[:100])
    assert run(*stopped, model).code == 0
    assert np.load("vectors.npz")["vectors"].shape == (8, DIM)


def test_what_is_done_is_saved_now_and_then(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.cli.partial.INTERVAL", 0.0)
    saved: list[int] = []
    remove = "oneclip.cli.partial.Partial.remove"
    monkeypatch.setattr(remove, lambda self: saved.append(len(list(self.folder.glob("*.npz")))))
    assert run("embed", pictures, "-o", "vectors.npz", "--batch-size", 2, "--model", model).code == 0
    assert saved == [4]


@pytest.mark.skipif(os.name == "nt", reason="sends the signal of a Unix terminal")
def test_a_real_ctrl_c_keeps_what_was_done(pictures: Path, model: Path) -> None:
    program = (
        "import sys, time\nfrom oneclip.engine import Towers\nimage = Towers.image\n"
        "def slow(self, pixels):\n    print('batch', flush=True)\n    time.sleep(0.2)\n"
        "    return image(self, pixels)\n"
        "Towers.image = slow\nfrom oneclip.cli import main\nmain()\n"
    )
    arguments = ["embed", str(pictures), "-o", "vectors.npz", "--batch-size", "1", "--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for _ in range(4):  # the fixed picture, and three batches begun
        process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "of 8 pictures are kept" in err
    assert "Traceback" not in err
    assert list(Path("vectors.npz.partial").glob("*.npz"))
