"""`oneclip classify`, with what careless and careful people give it."""

import json
import sys
from pathlib import Path

import pytest
from commandline import Run
from PIL import Image
from tiny import picture, write_tiny_model

import oneclip

LABELS = ["-l", "a cat", "-l", "a dog", "-l", "a tree"]


def test_json_has_what_the_encoder_says(run: Run, pictures: Path, model: Path) -> None:
    code, out, err = run("classify", pictures / "cat.png", *LABELS, "--model", model, "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert out.isascii()
    assert answer.keys() == {"model", "template", "pictures", "skipped"}
    assert (answer["model"], answer["template"], answer["skipped"]) == (str(model), None, [])
    (picture,) = answer["pictures"]
    assert picture["path"] == str(pictures / "cat.png")
    expected = oneclip.load(model).classify(pictures / "cat.png", ["a cat", "a dog", "a tree"])
    assert [found["label"] for found in picture["labels"]] == [label for label, _ in expected]
    assert [found["probability"] for found in picture["labels"]] == pytest.approx(
        [p for _, p in expected], abs=1e-5
    )
    assert all(-1 <= found["similarity"] <= 1 for found in picture["labels"])


def test_the_table_has_a_bar_for_each_of_the_best_labels(run: Run, pictures: Path, model: Path) -> None:
    code, out, err = run("classify", pictures, *LABELS, "--model", model, "--top", 2)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 1 + 8 * 2
    assert lines[1].startswith("pictures/apple.png ")
    assert all(" %" in line for line in lines[1:])
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in lines)


def test_a_template_frames_the_labels(run: Run, pictures: Path, model: Path) -> None:
    framed = run(
        *("classify", pictures / "cat.png", "-l", "cat", "-l", "dog"),
        *("--template", "a {}", "--model", model, "--json"),
    )
    bare = run("classify", pictures / "cat.png", "-l", "a cat", "-l", "a dog", "--model", model, "--json")
    shares = [
        [found["probability"] for found in json.loads(result.out)["pictures"][0]["labels"]]
        for result in (framed, bare)
    ]
    assert shares[0] == shares[1]
    assert json.loads(framed.out)["template"] == "a {}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-l", "a cat"], "nothing to choose from"),
        (["-l", "a cat", "-l", "a cat"], "'a cat' is given twice"),
        (["-l", "a cat", "-l", "A  Cat"], "are the same to this model"),
        (["-l", "a cat", "-l", ""], "empty"),
        (["-l", "a cat", "-l", "a dog", "--template", "photo"], "{}"),
        (["-l", "a cat", "-l", "dog " * 100], "tokens"),
    ],
)
def test_labels_that_make_no_sense_exit_with_2(
    run: Run, pictures: Path, model: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("classify", pictures / "cat.png", *arguments, "--model", model)
    assert (code, out) == (2, "")
    assert message in err


def test_a_sigmoid_model_may_be_asked_with_one_label(run: Run, pictures: Path, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "sigmoid.safetensors", init_logit_bias=-1.0)
    assert run("classify", pictures / "cat.png", "-l", "a cat", "--model", model).code == 0


def test_names_may_have_spaces_umlauts_and_emoji(
    run: Run, pictures: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ein Ordner für 🐈 [bold]"
    folder.mkdir()
    (pictures / "cat.png").rename(folder / "Kätzchen 🐱.png")
    assert str(folder / "Kätzchen 🐱.png") in run("classify", folder, *LABELS, "--model", model).out
    (picture,) = json.loads(run("classify", folder, *LABELS, "--model", model, "--json").out)["pictures"]
    assert picture["path"] == str(folder / "Kätzchen 🐱.png")


def test_a_tiny_picture_is_one(run: Run, pictures: Path, model: Path) -> None:
    Image.new("RGB", (1, 1), "red").save("one.png")
    assert run("classify", "one.png", *LABELS, "--model", model).code == 0


@pytest.mark.parametrize(
    ("path", "message"), [("nowhere.png", "no such file"), ("empty", "without pictures")]
)
def test_a_path_that_leads_to_no_picture_is_an_error_or_skipped(
    run: Run, pictures: Path, model: Path, path: str, message: str
) -> None:
    Path("empty").mkdir()
    arguments = ("classify", path, pictures / "cat.png", *LABELS, "--model", model)
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
def test_a_broken_file_costs_only_its_own_result(
    run: Run, pictures: Path, model: Path, skip: tuple[str, ...], expected: int
) -> None:
    whole = (pictures / "cat.png").read_bytes()
    (pictures / "cat.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "note.png").write_text("no picture", encoding="utf-8")
    alone = json.loads(run("classify", pictures / "sun.png", *LABELS, "-m", model, "--json").out)["pictures"][
        0
    ]
    code, out, err = run(
        *("classify", pictures, *LABELS, "--model", model, "--json", "--batch-size", 2, *skip)
    )
    answer = json.loads(out)
    assert code == expected
    assert len(answer["pictures"]) == 7
    (again,) = (found for found in answer["pictures"] if found["path"] == alone["path"])
    assert again["labels"] == [  # batches of another size round otherwise
        {key: pytest.approx(value, abs=1e-5) for key, value in one.items()} for one in alone["labels"]
    ]
    assert [Path(one["path"]).name for one in answer["skipped"]] == ["cat.png", "note.png"]
    assert [line.split(" ")[1] for line in err.splitlines()] == ["pictures/cat.png", "pictures/note.png"]
    code, out, err = run("classify", pictures / "note.png", *LABELS, "--model", model, *skip)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "error: no image could be read"


def test_a_truncated_image_is_classified_where_that_is_allowed(run: Run, pictures: Path, model: Path) -> None:
    picture(0, (400, 300)).save("half.jpg")
    content = Path("half.jpg").read_bytes()
    Path("half.jpg").write_bytes(content[: len(content) // 2])
    command = ("classify", "half.jpg", *LABELS, "--model", model)
    assert run(*command).code == 1
    code, out, err = run(*command, "--truncated", "accept")
    assert (code, err) == (0, "")
    assert "half.jpg" in out
    assert run("embed", "half.jpg", "-o", "v.npz", "--model", model, "--truncated", "accept").code == 0


def test_ctrl_c_prints_what_is_done(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = oneclip.Encoder.encode_pixels, iter(range(99))

    def interrupted(self: oneclip.Encoder, batch: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(oneclip.Encoder, "encode_pixels", interrupted)
    code, out, err = run("classify", pictures, *LABELS, "-m", model, "--json", "--batch-size", 2)
    answer = json.loads(out)
    assert code == 130
    assert [Path(found["path"]).name for found in answer["pictures"]] == sorted(
        path.name for path in pictures.glob("*.png")
    )[:4]
    assert answer["interrupted"] is True
    assert err == "interrupted: 4 of 8 images are classified\n"


def test_nothing_left_is_an_error_even_when_skipping(run: Run, pictures: Path, model: Path) -> None:
    code, _, err = run("classify", "nowhere.png", *LABELS, "--model", model, "--skip")
    assert code == 1
    assert "nowhere.png" in err
    assert "no picture is left" in err


def test_a_picture_with_too_many_pixels_is_refused(run: Run, pictures: Path, model: Path) -> None:
    code, _, err = run("classify", pictures / "cat.png", *LABELS, "--model", model, "--max-pixels", 1000)
    assert code == 1
    assert "256 x 256" in err


class Terminal:
    """Makes stdout look like a terminal of so many columns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize("columns", [100, 40, 24])
def test_a_terminal_gets_colour_and_nothing_wider_than_it_is(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    import re

    monkeypatch.delenv("NO_COLOR", raising=False)
    Terminal(monkeypatch, columns)
    code, out, _ = run("classify", pictures / "flower.png", *LABELS, "--model", model)
    assert code == 0
    assert "\x1b[3" in out
    plain = re.sub(r"\x1b\[[\d;]*m", "", out)
    assert max(len(line) for line in plain.splitlines()) <= columns
    assert ("█" in plain) == (columns == 100)


def test_no_color_is_heeded(run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Terminal(monkeypatch, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run("classify", pictures / "cat.png", *LABELS, "--model", model).out


def test_progress_comes_after_two_seconds_and_on_stderr(
    run: Run, pictures: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.cli.progress_bars.PATIENCE", 0.0)
    code, out, err = run("classify", pictures, *LABELS, "--model", model, "--batch-size", 2, "--json")
    assert code == 0
    assert json.loads(out)
    assert "2 of 8 pictures" in err
