"""`oneclip embed`: what is in the output, what the command says, and going on after Ctrl-C."""

import csv
import hashlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commandline import Run
from tiny import picture, write_tiny_model

import oneclip
from oneclip.engine import Towers
from tests import programs


def test_npz_has_names_and_vectors_side_by_side(run: Run, pictures: Path, model: Path) -> None:
    code, out, err = run("embed", pictures, "-o", "vectors.npz", "--model", model)
    assert (code, out) == (0, "")
    assert "8 pictures" in err
    content = np.load("vectors.npz")
    paths = sorted(map(str, pictures.glob("*.png")))
    assert content["names"].tolist() == paths
    assert content["vectors"].dtype == np.float32
    np.testing.assert_allclose(content["vectors"], oneclip.load(model).encode_images(paths), atol=1e-5)
    facts = [str(content[name]) for name in ("model", "precision", "decode", "kind")]
    assert facts == [str(model), "fp32", "exact", "pictures"]
    assert content["sha256"][0].decode() == hashlib.sha256(Path(paths[0]).read_bytes()).hexdigest()
    assert not Path("vectors.npz.partial").exists()


def test_parquet_has_the_same(run: Run, pictures: Path, model: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("embed", pictures, "-o", "vectors.npz", "--model", model).code == 0
    assert run("embed", pictures, "-o", "vectors.parquet", "--model", model).code == 0
    table, content = parquet.read_table("vectors.parquet"), np.load("vectors.npz")
    assert table["name"].to_pylist() == content["names"].tolist()
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), content["vectors"])
    assert table.schema.metadata[b"oneclip.model"] == str(model).encode()
    assert table.schema.metadata[b"oneclip.weights"].decode() == str(content["weights"])


def test_a_name_without_suffix_is_a_folder_of_parts_that_parquet_reads_as_one(
    run: Run, pictures: Path, model: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (pictures / "broken.png").write_bytes(b"no picture")
    assert run("embed", pictures, "-o", "vectors", "--model", model, "--skip").code == 3
    assert sorted(path.name for path in Path("vectors").iterdir() if path.name[0] != ".") == [
        "_errors.csv",
        "_made_by.json",
        "part-000000.parquet",
    ]
    assert len(parquet.read_table("vectors")) == 8


def test_captions_are_called_by_their_file_and_line(run: Run, pictures: Path, model: Path) -> None:
    Path("captions.txt").write_text("a cat\n\na dog\na cat\n", encoding="utf-8")
    code, _, err = run("embed", "captions.txt", "--texts", "-o", "vectors.npz", "--model", model)
    assert code == 0
    assert "3 captions" in err
    assert "2 encoded, 1 known by content" in err
    content = np.load("vectors.npz")
    assert content["names"].tolist() == ["captions.txt:1", "captions.txt:3", "captions.txt:4"]
    np.testing.assert_allclose(
        content["vectors"], oneclip.load(model).encode_texts(["a cat", "a dog", "a cat"]), atol=1e-5
    )


def test_captions_that_are_too_long_are_listed_or_cut(run: Run, pictures: Path, model: Path) -> None:
    Path("captions.txt").write_text("a cat\n" + "word " * 200, encoding="utf-8")
    arguments = ("embed", "captions.txt", "--texts", "--model", model, "-o")
    code, _, err = run(*arguments, "vectors.npz", "--skip")
    assert code == 3
    assert "captions.txt:2" in err
    assert len(np.load("vectors.npz")["names"]) == 1
    assert run(*arguments, "cut.npz", "--truncate").code == 0
    assert len(np.load("cut.npz")["names"]) == 2


def test_the_last_line_says_how_pictures_were_decoded(run: Run, pictures: Path, model: Path) -> None:
    arguments = ("embed", pictures, "--model", model, "-o")
    assert "(fp32, decode exact)" in run(*arguments, "a.npz").err
    assert "(fp32, decode fast)" in run(*arguments, "b.npz", "--decode", "fast").err
    assert str(np.load("b.npz")["decode"]) == "fast"


def test_a_cache_serves_another_output_without_the_model(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("embed", pictures, "--model", model, "--cache", "cache", "-o")
    assert run(*arguments, "a.npz").code == 0
    encoded = watch(monkeypatch)
    assert "8 known by content" in run(*arguments, "b.npz").err
    assert encoded == []
    np.testing.assert_array_equal(np.load("a.npz")["vectors"], np.load("b.npz")["vectors"])
    assert "8 encoded" in run(*arguments, "c.npz", "--decode", "fast").err


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
        ("old.npz", 1, "no vectors of `oneclip embed`"),
        ("missing/vectors.npz", 1, "no folder missing"),
        ("folder.npz", 1, "is a folder"),
    ],
)
def test_an_impossible_output_is_found_before_the_work(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch, output: str, code: int, message: str
) -> None:
    Path("folder.npz").mkdir()
    Path("old.npz").write_bytes(b"something of somebody's")
    monkeypatch.setattr("oneclip.encoder.load", lambda *a, **k: pytest.fail("the model was loaded"))
    result = run("embed", pictures, "-o", output)
    assert result.code == code
    assert message in result.err


def test_parquet_without_its_library_names_the_extra(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.formats.parquet.find_spec", lambda name: None)
    code, _, err = run("embed", pictures, "-o", "vectors.parquet")
    assert code == 1
    assert "pip install 'oneclip[parquet]'" in err


@pytest.mark.parametrize("skip", [False, True])
def test_what_cannot_be_read_is_listed_and_the_rest_is_written(
    run: Run, pictures: Path, model: Path, skip: bool
) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    arguments = ("embed", pictures, "-o", "vectors.npz", "--model", model, *["--skip"] * skip)
    code, _, err = run(*arguments)
    assert code == (3 if skip else 1)
    assert "skipped the picture in pictures/broken.png is not a picture" in err
    assert "1 could not be read: vectors.npz.errors.csv has the reasons" in err
    assert len(np.load("vectors.npz")["names"]) == 8
    rows = list(csv.reader(Path("vectors.npz.errors.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows] == ["name", "pictures/broken.png"]
    (pictures / "broken.png").unlink()
    code, _, err = run(*arguments)
    assert code == 0
    assert "8 from earlier" in err
    assert not Path("vectors.npz.errors.csv").exists()


def test_a_path_that_leads_nowhere_is_an_error_before_the_work(run: Run, pictures: Path, model: Path) -> None:
    arguments = ("embed", pictures, "nowhere", "-o", "vectors.npz", "--model", model)
    code, _, err = run(*arguments)
    assert code == 1
    assert "nowhere: no such file or folder; --skip" in err
    assert not list(Path().glob("vectors*"))
    assert run(*arguments, "--skip").code == 3
    assert len(np.load("vectors.npz")["names"]) == 8


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
    with monkeypatch.context() as patch:
        watch(patch, stop_after=2)
        code, _, err = run(*arguments, model)
    assert code == 130
    assert "4 pictures are kept" in err
    assert not Path("vectors.npz").exists()
    return arguments


def test_the_same_command_goes_on_and_ends_the_same(
    run: Run, model: Path, stopped: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = watch(monkeypatch)
    assert "going on: 4 vectors" in run(*stopped, model).err
    assert encoded == [2, 2]
    continued = np.load("vectors.npz")
    assert run(*stopped, model, "--overwrite").code == 0
    assert encoded == [2] * 6
    unbroken = np.load("vectors.npz")
    assert continued["names"].tolist() == unbroken["names"].tolist()
    np.testing.assert_allclose(continued["vectors"], unbroken["vectors"], atol=1e-5)
    assert not Path("vectors.npz.partial").exists()


def test_another_model_is_refused_whether_the_run_was_finished_or_not(
    run: Run, model: Path, stopped: tuple[object, ...], tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    for _ in range(2):
        code, _, err = run(*stopped, other)
        assert code == 1
        assert "holds vectors of another making: model" in err
        assert run(*stopped, model).code == 0
    assert str(np.load("vectors.npz")["model"]) == str(model)
    assert run(*stopped, other, "--overwrite").code == 0
    assert str(np.load("vectors.npz")["model"]) == str(other)


@pytest.mark.skipif(os.name == "nt", reason="sends the signal of a Unix terminal")
def test_a_real_ctrl_c_keeps_what_was_done(pictures: Path, model: Path) -> None:
    program = (
        "import sys, time\nfrom oneclip.engine import Towers\nimage = Towers.image\n"
        "def slow(self, pixels):\n    print('batch', flush=True)\n    time.sleep(0.2)\n"
        "    return image(self, pixels)\n"
        "Towers.image = slow\nfrom oneclip.cli import main\nmain()\n"
    )
    arguments = ["embed", str(pictures), "-o", "vectors.npz", "--batch-size", "1", "--model", str(model)]
    with Path("errors").open("w+") as errors:
        process, printed = programs.begin(["-c", program, *arguments], stderr=errors.fileno())
        with printed:
            for _ in range(3):  # batches begun
                printed.readline()
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGINT)
            printed.read()
        process.join()
        errors.seek(0)
        err = errors.read()
    assert process.exitcode == 130, err
    assert "pictures are kept" in err
    assert "Traceback" not in err
    assert list(Path("vectors.npz.partial").glob("*.npz"))
