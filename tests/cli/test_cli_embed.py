"""`oneclip embed`: content of the output, messages, and resuming after Ctrl-C."""

import csv
import hashlib
import io
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from commandline import Run
from tiny import picture, write_tiny_model

import oneclip
from oneclip.engine import InferenceModel
from oneclip.installation import install_command
from tests import programs


def test_npz_has_names_and_vectors(run: Run, images: Path, model: Path) -> None:
    code, out, err = run("embed", images, "-o", "vectors.npz", "--model", model)
    assert (code, out) == (0, "")
    assert "8 images" in err
    content = np.load("vectors.npz")
    paths = sorted(map(str, images.glob("*.png")))
    assert content["names"].tolist() == paths
    assert content["vectors"].dtype == np.float32
    np.testing.assert_allclose(content["vectors"], oneclip.load(model).encode_images(paths), atol=1e-5)
    facts = [str(content[name]) for name in ("model", "precision", "decode", "kind")]
    assert facts == [str(model), "fp32", "exact", "images"]
    assert content["sha256"][0].decode() == hashlib.sha256(Path(paths[0]).read_bytes()).hexdigest()
    assert not Path("vectors.npz.partial").exists()


def test_parquet_has_the_same(run: Run, images: Path, model: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("embed", images, "-o", "vectors.npz", "--model", model).code == 0
    assert run("embed", images, "-o", "vectors.parquet", "--model", model).code == 0
    table, content = parquet.read_table("vectors.parquet"), np.load("vectors.npz")
    assert table["name"].to_pylist() == content["names"].tolist()
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), content["vectors"])
    assert table.schema.metadata[b"oneclip.model"] == str(model).encode()
    assert table.schema.metadata[b"oneclip.weights"].decode() == str(content["weights"])


def test_a_name_without_suffix_is_a_folder_of_parts_that_parquet_reads_as_one(
    run: Run, images: Path, model: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (images / "broken.png").write_bytes(b"not an image")
    assert run("embed", images, "-o", "vectors", "--model", model, "--skip").code == 3
    assert sorted(path.name for path in Path("vectors").iterdir() if path.name[0] != ".") == [
        "_errors.csv",
        "_made_by.json",
        "part-000000.parquet",
    ]
    assert len(parquet.read_table("vectors")) == 8


def test_texts_are_named_by_file_and_line(run: Run, images: Path, model: Path) -> None:
    Path("captions.txt").write_text("a cat\n\na dog\na cat\n", encoding="utf-8")
    code, _, err = run("embed", "captions.txt", "--texts", "-o", "vectors.npz", "--model", model)
    assert code == 0
    assert "3 texts" in err
    assert "2 encoded, 1 found by content" in err
    content = np.load("vectors.npz")
    assert content["names"].tolist() == ["captions.txt:1", "captions.txt:3", "captions.txt:4"]
    np.testing.assert_allclose(
        content["vectors"], oneclip.load(model).encode_texts(["a cat", "a dog", "a cat"]), atol=1e-5
    )


def test_texts_that_are_too_long_are_listed_or_truncated(run: Run, images: Path, model: Path) -> None:
    Path("captions.txt").write_text("a cat\n" + "word " * 200, encoding="utf-8")
    arguments = ("embed", "captions.txt", "--texts", "--model", model, "-o")
    code, _, err = run(*arguments, "vectors.npz", "--skip")
    assert code == 3
    assert "captions.txt:2" in err
    assert len(np.load("vectors.npz")["names"]) == 1
    assert run(*arguments, "cut.npz", "--truncate").code == 0
    assert len(np.load("cut.npz")["names"]) == 2


def test_the_last_line_says_how_images_were_decoded(run: Run, images: Path, model: Path) -> None:
    arguments = ("embed", images, "--model", model, "-o")
    assert "(fp32, decode exact)" in run(*arguments, "a.npz").err
    assert "(fp32, decode fast)" in run(*arguments, "b.npz", "--decode", "fast").err
    assert str(np.load("b.npz")["decode"]) == "fast"


def test_a_cache_serves_another_output_without_the_model(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("embed", images, "--model", model, "--cache", "cache", "-o")
    assert run(*arguments, "a.npz").code == 0
    encoded = record_batches(monkeypatch)
    assert "8 found by content" in run(*arguments, "b.npz").err
    assert encoded == []
    np.testing.assert_array_equal(np.load("a.npz")["vectors"], np.load("b.npz")["vectors"])
    assert "8 encoded" in run(*arguments, "c.npz", "--decode", "fast").err


def test_a_text_that_is_not_a_list_of_images_is_named(run: Run, images: Path, model: Path) -> None:
    Path("LICENSE.txt").write_text("Copyright\nPermission is granted\nwithout warranty\n", encoding="utf-8")
    note = "note: LICENSE.txt is read as a list of paths, one per line; most of the first ones do not exist"
    code, _, err = run("embed", "LICENSE.txt", "-o", "vectors.npz", "--model", model)
    assert (code, err.splitlines()[0]) == (1, note)
    Path("list.txt").write_text("images/cat.png\nimages/sun.png\nimages/none.png\n", encoding="utf-8")
    assert "list of paths" not in run("embed", "list.txt", "-o", "vectors.npz", "--model", model).err


def test_folders_are_walked_and_what_is_hidden_is_not(run: Run, images: Path, model: Path) -> None:
    for name in ("sub/deep/a.JPG", "sub/b.webp", ".hidden/c.png", "sub/.d.png"):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(path)
    (images / "notes.txt").write_text("not an image", encoding="utf-8")
    arguments = ("embed", "images/sub", images / "cat.png", "./images/cat.png", images)
    assert run(*arguments, "-o", "vectors.npz", "--model", model).code == 0
    names = np.load("vectors.npz")["names"].tolist()
    assert names[:3] == ["images/sub/b.webp", "images/sub/deep/a.JPG", "images/cat.png"]
    assert len(names) == len(set(names)) == 2 + 8


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("vectors.csv", 2, ".npz or .parquet"),
        ("old.npz", 1, "was not written by `oneclip embed`"),
        ("missing/vectors.npz", 1, "the folder missing does not exist"),
        ("folder.npz", 1, "is a folder"),
    ],
)
def test_an_invalid_output_is_an_error_before_the_run(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch, output: str, code: int, message: str
) -> None:
    Path("folder.npz").mkdir()
    Path("old.npz").write_bytes(b"something of somebody's")
    monkeypatch.setattr("oneclip.encoder.load", lambda *a, **k: pytest.fail("the model was loaded"))
    result = run("embed", images, "-o", output)
    assert result.code == code
    assert message in result.err


def test_parquet_without_its_library_names_the_extra(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.embed.formats.parquet.find_spec", lambda name: None)
    code, _, err = run("embed", images, "-o", "vectors.parquet")
    assert code == 1
    assert install_command("parquet") in err


@pytest.mark.parametrize("skip", [False, True])
def test_unreadable_images_are_listed_and_the_others_written(
    run: Run, images: Path, model: Path, skip: bool
) -> None:
    (images / "broken.png").write_bytes(b"not an image")
    arguments = ("embed", images, "-o", "vectors.npz", "--model", model, *["--skip"] * skip)
    code, _, err = run(*arguments)
    assert code == (3 if skip else 1)
    assert f"{'skipped' if skip else 'cannot read'} images/broken.png: not an image" in err
    assert "1 could not be read: vectors.npz.errors.csv has the reasons" in err
    assert len(np.load("vectors.npz")["names"]) == 8
    rows = list(csv.reader(Path("vectors.npz.errors.csv").read_text(encoding="utf-8").splitlines()))
    assert [row[0] for row in rows] == ["name", "images/broken.png"]
    (images / "broken.png").unlink()
    code, _, err = run(*arguments)
    assert code == 0
    assert "8 already done" in err
    assert not Path("vectors.npz.errors.csv").exists()


def test_a_missing_path_is_an_error_before_the_run(run: Run, images: Path, model: Path) -> None:
    arguments = ("embed", images, "nowhere", "-o", "vectors.npz", "--model", model)
    code, _, err = run(*arguments)
    assert code == 1
    assert "nowhere: no such file or folder; --skip" in err
    assert not list(Path().glob("vectors*"))
    assert run(*arguments, "--skip").code == 3
    assert len(np.load("vectors.npz")["names"]) == 8


# ---------------------------------------------------------------------------------------- interrupting and resuming


def record_batches(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """Record the sizes of the batches of the model; raise KeyboardInterrupt after `stop_after` batches."""
    sizes: list[int] = []
    image = InferenceModel.encode_pixels

    def watched(self: InferenceModel, pixels: object) -> object:
        if stop_after is not None and len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(pixels))  # type: ignore[arg-type]
        return image(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceModel, "encode_pixels", watched)
    return sizes


@pytest.fixture
def stopped(run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """An embedding that was interrupted after four of eight images; the arguments to resume it."""
    arguments = ("embed", images, "-o", "vectors.npz", "--batch-size", 2, "--model")
    with monkeypatch.context() as patch:
        record_batches(patch, stop_after=2)
        code, _, err = run(*arguments, model)
    assert code == 130
    assert "4 embeddings are saved" in err
    assert not Path("vectors.npz").exists()
    return arguments


def test_the_same_command_resumes_with_the_same_result(
    run: Run, model: Path, stopped: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = record_batches(monkeypatch)
    assert "resuming: 4 embeddings already done" in run(*stopped, model).err
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
        assert "contains embeddings made with other settings: model" in err
        assert run(*stopped, model).code == 0
    assert str(np.load("vectors.npz")["model"]) == str(model)
    assert run(*stopped, other, "--overwrite").code == 0
    assert str(np.load("vectors.npz")["model"]) == str(other)


@pytest.mark.skipif(os.name == "nt", reason="sends the signal of a Unix terminal")
def test_a_real_ctrl_c_keeps_finished_embeddings(images: Path, model: Path) -> None:
    program = (
        "import sys, time\nfrom oneclip.engine import InferenceModel\nimage = InferenceModel.encode_pixels\n"
        "def slow(self, pixels):\n    print('batch', flush=True)\n    time.sleep(0.2)\n"
        "    return image(self, pixels)\n"
        "InferenceModel.encode_pixels = slow\nfrom oneclip.cli import main\nmain()\n"
    )
    arguments = ["embed", str(images), "-o", "vectors.npz", "--batch-size", "1", "--model", str(model)]
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
    assert "embeddings are saved" in err
    assert "Traceback" not in err
    assert list(Path("vectors.npz.partial").glob("*.npz"))


# ----------------------------------------------------------------------------------------- messages and options


def test_dropped_and_kept_rows_are_counted_with_the_reason(run: Run, images: Path, model: Path) -> None:
    Path("more").mkdir()
    picture(9).save("more/9.png")
    arguments = ("-o", "vectors.npz", "--model", model)
    assert run("embed", images, "more", *arguments).code == 0
    code, _, err = run("embed", "more", *arguments)
    assert code == 0
    assert "note: 8 rows of earlier runs dropped: not in the sources of this run" in err
    Path("more").rename("unmounted")
    code, _, err = run("embed", images, "more", *arguments, "--skip")
    assert code == 3
    assert "note: 1 row of earlier runs kept: their source could not be listed" in err
    assert len(np.load("vectors.npz")["names"]) == 9


def test_json_summarizes_the_run(run: Run, images: Path, model: Path) -> None:
    (images / "broken.png").write_bytes(b"not an image")
    code, out, _ = run("embed", images, "-o", "vectors.npz", "--model", model, "--skip", "--json")
    assert code == 3
    answer = json.loads(out)
    weights = str(np.load("vectors.npz")["weights"])
    assert {
        key: answer[key] for key in ("output", "rows", "encoded", "already_done", "failed", "weights")
    } == {
        "output": "vectors.npz",
        "rows": 8,
        "encoded": 8,
        "already_done": 0,
        "failed": 1,
        "weights": weights,
    }
    assert [one["path"] for one in answer["skipped"]] == ["images/broken.png"]
    assert answer["errors"] == "vectors.npz.errors.csv"


def test_excluded_files_and_thumbnails_of_a_nas_are_left_out(run: Run, images: Path, model: Path) -> None:
    for name in ("@eaDir/SYNO_M.jpg", "sub/@eaDir/a.jpg", "sub/raw/b.png", "sub/c_thumb.png", "sub/d.png"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(images / name)
    arguments = ("embed", "images/sub", "-o", "vectors.npz", "--model", model)
    assert run(*arguments).code == 0
    assert [Path(n).name for n in np.load("vectors.npz")["names"]] == ["c_thumb.png", "d.png", "b.png"]
    assert run(*arguments, "--exclude", "*_thumb.*", "--exclude", "raw").code == 0
    assert np.load("vectors.npz")["names"].tolist() == ["images/sub/d.png"]
    assert (
        run(
            "embed", "images", "-o", "b.npz", "--model", model, "--exclude", "sub/r*", "--exclude", "*t.png"
        ).code
        == 0
    )
    names = np.load("b.npz")["names"].tolist()
    assert "images/sub/raw/b.png" not in names
    assert "images/cat.png" not in names
    assert "images/sub/d.png" in names


def test_a_list_may_come_by_the_standard_input(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(text: str) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    given("images/sun.png\n\nimages/cat.png\n")
    assert run("embed", "@-", "-o", "vectors.npz", "--model", model).code == 0
    assert np.load("vectors.npz")["names"].tolist() == ["images/sun.png", "images/cat.png"]
    given("a cat\na dog\n")
    assert run("embed", "@-", "--texts", "-o", "texts.npz", "--model", model).code == 0
    assert np.load("texts.npz")["names"].tolist() == ["stdin:1", "stdin:2"]
    given("")
    assert "standard input is empty" in run("embed", "@-", "-o", "vectors.npz", "--model", model).err


def test_rows_are_called_by_an_id_column_whose_ids_differ(run: Run, images: Path, model: Path) -> None:
    Path("t.csv").write_text(
        "sku,path\nA/7,images/cat.png\nB,images/sun.png\nB,images/tree.png\n,images/tree.png\n",
        encoding="utf-8",
    )
    arguments = ("embed", "t.csv", "--id-column", "sku", "-o", "vectors.npz", "--model", model, "--skip")
    code, _, err = run(*arguments)
    assert code == 3
    assert np.load("vectors.npz")["names"].tolist() == ["A/7", "B"]
    assert "t.csv:3: its id 'B' is also that of row 2" in err
    assert "t.csv:4: its id in the column 'sku' is ''" in err
    assert "2 already done" in run(*arguments).err
    code, _, err = run("embed", images, "--id-column", "sku", "-o", "vectors.npz", "--model", model)
    assert code == 2
    assert "no SOURCE is a table" in err


@pytest.mark.parametrize("output", ["vectors.npz", "vectors.parquet", "folder", "vectors.lance"])
def test_float16_is_half_as_large_and_never_mixed(run: Run, images: Path, model: Path, output: str) -> None:
    pytest.importorskip("lance" if output.endswith("lance") else "pyarrow")
    arguments = ("embed", images, "-o", output, "--model", model)
    half = ("--output-precision", "fp16")
    assert run(*arguments, *half).code == 0
    code, _, err = run(*arguments)
    assert code == 1
    assert "stored fp16, not fp32" in err
    (images / "cat.png").rename(images / "kitten.png")
    assert "1 found by content" in run(*arguments, *half).err
    if output == "vectors.npz":
        vectors = np.load(output)["vectors"]
        names = np.load(output)["names"].tolist()
        assert vectors.dtype == np.float16
        full = oneclip.load(model).encode_images(names)
        np.testing.assert_array_equal(vectors, full.astype(np.float16))


def test_a_table_without_rows_says_so(run: Run, images: Path, model: Path) -> None:
    Path("t.csv").write_text("path\n", encoding="utf-8")
    code, _, err = run("embed", "t.csv", "-o", "vectors.npz", "--model", model)
    assert code == 1
    assert "t.csv: the table has a header but no rows" in err
    assert "None" not in err


def test_base64_in_a_table_is_not_printed(run: Run, images: Path, model: Path) -> None:
    Path("t.csv").write_text("image\n" + "iVBORw0K" * 30_000 + "\nimages/cat.png\n", encoding="utf-8")
    code, _, err = run("embed", "t.csv", "-o", "vectors.npz", "--model", model, "--skip")
    assert code == 3
    assert "240,000 characters" in err
    assert len(err) < 1000
