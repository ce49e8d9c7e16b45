"""`oneclip classify`: results, invalid input, broken files, Ctrl-C and terminals."""

import json
import sys
import warnings
from pathlib import Path

import pytest
from commandline import Run
from PIL import Image
from tiny import picture, write_tiny_model

import oneclip
from oneclip.engine import InferenceModel
from oneclip.errors import ImageError
from oneclip.image import open_image

LABELS = ["-l", "a cat", "-l", "a dog", "-l", "a tree"]


def test_json_equals_the_result_of_the_encoder(run: Run, images: Path, model: Path) -> None:
    code, out, err = run("classify", images / "cat.png", *LABELS, "--model", model, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert out.isascii()
    assert answer.keys() == {"model", "template", "images", "skipped"}
    assert (answer["model"], answer["template"], answer["skipped"]) == (str(model), None, [])
    (image,) = answer["images"]
    assert image["path"] == str(images / "cat.png")
    expected = oneclip.load(model).classify(images / "cat.png", ["a cat", "a dog", "a tree"])
    assert [found["label"] for found in image["labels"]] == [label for label, _ in expected]
    assert [found["probability"] for found in image["labels"]] == pytest.approx(
        [p for _, p in expected], abs=1e-5
    )
    assert all(-1 <= found["similarity"] <= 1 for found in image["labels"])


def test_the_table_has_a_bar_for_each_of_the_best_labels(run: Run, images: Path, model: Path) -> None:
    code, out, err = run("classify", images, *LABELS, "--model", model, "--top", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 1 + 8 * 2
    assert lines[1].startswith("images/apple.png ")
    assert all(" %" in line for line in lines[1:])
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in lines)


def test_labels_are_filled_into_the_template(run: Run, images: Path, model: Path) -> None:
    framed = run(
        *("classify", images / "cat.png", "-l", "cat", "-l", "dog"),
        *("--template", "a {}", "--model", model, "--json"),
    )
    bare = run("classify", images / "cat.png", "-l", "a cat", "-l", "a dog", "--model", model, "--json")
    shares = [
        [found["probability"] for found in json.loads(result.out)["images"][0]["labels"]]
        for result in (framed, bare)
    ]
    assert shares[0] == shares[1]
    assert json.loads(framed.out)["template"] == "a {}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-l", "a cat"], "only one label given"),
        (["-l", "a cat", "-l", "a cat"], "'a cat' is given twice"),
        (["-l", "a cat", "-l", "A  Cat"], "are the same to this model"),
        (["-l", "a cat", "-l", ""], "empty"),
        (["-l", "a cat", "-l", "a dog", "--template", "photo"], "{}"),
        (["-l", "a cat", "-l", "dog " * 100], "tokens"),
    ],
)
def test_invalid_labels_exit_with_2(
    run: Run, images: Path, model: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("classify", images / "cat.png", *arguments, "--model", model)
    assert (code, out) == (2, "")
    assert message in err


def test_a_sigmoid_model_accepts_a_single_label(run: Run, images: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "sigmoid.safetensors", init_logit_bias=-1.0)
    assert run("classify", images / "cat.png", "-l", "a cat", "--model", model).code == 0


def test_file_names_with_spaces_umlauts_and_emoji_are_accepted(
    run: Run, images: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ein Ordner für 🐈 [bold]"
    folder.mkdir()
    (images / "cat.png").rename(folder / "Kätzchen 🐱.png")
    assert str(folder / "Kätzchen 🐱.png") in run("classify", folder, *LABELS, "--model", model).out
    (image,) = json.loads(run("classify", folder, *LABELS, "--model", model, "--json").out)["images"]
    assert image["path"] == str(folder / "Kätzchen 🐱.png")


def test_an_image_of_one_pixel_is_accepted(run: Run, images: Path, model: Path) -> None:
    Image.new("RGB", (1, 1), "red").save("one.png")
    assert run("classify", "one.png", *LABELS, "--model", model).code == 0


@pytest.mark.parametrize(("path", "message"), [("nowhere.png", "no such file"), ("empty", "without images")])
def test_a_path_without_images_is_an_error_or_skipped(
    run: Run, images: Path, model: Path, path: str, message: str
) -> None:
    Path("empty").mkdir()
    arguments = ("classify", path, images / "cat.png", *LABELS, "--model", model)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert path in err
    assert message in err
    assert "--skip" in err
    code, out, err = run(*arguments, "--skip")
    assert code == 3
    assert "cat.png" in out
    assert err.startswith("skipped ")
    assert message in err
    code, out, err = run(*arguments, "--skip", "--json")
    (skipped,) = json.loads(out)["skipped"]
    assert code == 3
    assert skipped["path"] == path
    assert message in skipped["reason"]


@pytest.mark.parametrize(("skip", "expected"), [((), 1), (("--skip",), 3)])
def test_a_broken_file_does_not_affect_other_results(
    run: Run, images: Path, model: Path, skip: tuple[str, ...], expected: int
) -> None:
    whole = (images / "cat.png").read_bytes()
    (images / "cat.png").write_bytes(whole[: len(whole) // 2])
    (images / "note.png").write_text("not an image", encoding="utf-8")
    alone = json.loads(run("classify", images / "sun.png", *LABELS, "-m", model, "--json").out)["images"][0]
    code, out, err = run(*("classify", images, *LABELS, "--model", model, "--json", "--batch-size", 2, *skip))
    answer = json.loads(out)
    assert code == expected
    assert len(answer["images"]) == 7
    (again,) = (found for found in answer["images"] if found["path"] == alone["path"])
    assert again["labels"] == [  # another batch size rounds differently
        {key: pytest.approx(value, abs=1e-5) for key, value in one.items()} for one in alone["labels"]
    ]
    assert [Path(one["path"]).name for one in answer["skipped"]] == ["cat.png", "note.png"]
    action = "skipped" if skip else "cannot read"
    assert [line.partition(":")[0] for line in err.splitlines()] == [
        f"{action} images/cat.png",
        f"{action} images/note.png",
    ]
    code, out, err = run("classify", images / "note.png", *LABELS, "--model", model, *skip)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: no image could be read"


def test_warnings_of_pillow_are_not_printed(run: Run, images: Path, model: Path) -> None:
    """They do not name the file; our own errors do."""
    Path("bad.tif").write_bytes(b"II*\0" + bytes(60))
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        with pytest.raises(ImageError):
            open_image("bad.tif")
        assert "PIL" in printed.pop().filename
        result = run(
            "classify", "bad.tif", "images", "-l", "a cat", "-l", "a dog", "--model", model, "--skip"
        )
    assert (result.code, printed) == (3, [])


def test_a_truncated_image_is_classified_if_accepted(run: Run, images: Path, model: Path) -> None:
    picture(0, (400, 300)).save("half.jpg")
    content = Path("half.jpg").read_bytes()
    Path("half.jpg").write_bytes(content[: len(content) // 2])
    command = ("classify", "half.jpg", *LABELS, "--model", model)
    assert run(*command).code == 1
    code, out, err = run(*command, "--truncated", "accept")
    assert (code, err) == (0, "")
    assert "half.jpg" in out
    assert run("embed", "half.jpg", "-o", "v.npz", "--model", model, "--truncated", "accept").code == 0


def test_ctrl_c_prints_the_results_so_far(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = InferenceModel.encode_pixels, iter(range(99))

    def interrupted(self: InferenceModel, batch: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceModel, "encode_pixels", interrupted)
    code, out, err = run("classify", images, *LABELS, "-m", model, "--json", "--batch-size", 2)
    answer = json.loads(out)
    assert code == 130
    assert [Path(found["path"]).name for found in answer["images"]] == sorted(
        path.name for path in images.glob("*.png")
    )[:4]
    assert answer["interrupted"] is True
    assert err == "interrupted: 4 of 8 images are classified\n"


def test_no_image_at_all_is_an_error_even_with_skip(run: Run, images: Path, model: Path) -> None:
    code, _, err = run("classify", "nowhere.png", *LABELS, "--model", model, "--skip")
    assert code == 1
    assert "nowhere.png" in err
    assert "no images found" in err


def test_an_image_with_too_many_pixels_is_refused(run: Run, images: Path, model: Path) -> None:
    code, _, err = run("classify", images / "cat.png", *LABELS, "--model", model, "--max-pixels", 1000)
    assert code == 1
    assert "256 x 256" in err


class Terminal:
    """Makes stdout look like a terminal with this number of columns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("columns", [100, 40, 24])
def test_a_terminal_gets_colour_and_lines_that_fit(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    import re

    monkeypatch.delenv("NO_COLOR", raising=False)
    Terminal(monkeypatch, columns)
    code, out, _ = run("classify", images / "flower.png", *LABELS, "--model", model)
    assert code == 0
    assert "\x1b[3" in out
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert max(len(line) for line in plain.splitlines()) <= columns
    assert ("█" in plain) == (columns == 100)


def test_no_color_switches_colour_off(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Terminal(monkeypatch, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run("classify", images / "cat.png", *LABELS, "--model", model).out


def test_progress_is_shown_on_stderr_after_two_seconds(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.cli.progress_bars.QUIET_SECONDS", 0.0)
    code, out, err = run("classify", images, *LABELS, "--model", model, "--batch-size", 2, "--json")
    assert code == 0
    assert json.loads(out)
    assert "2 of 8 images" in err
