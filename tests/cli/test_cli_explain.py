"""`oneclip explain`: maps on disk and numbers on stdout, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import Run
from PIL import Image

import oneclip


def test_json_is_what_the_library_returns(run: Run, images: Path, model: Path) -> None:
    code, out, err = run(
        "explain", images / "cat.png", "-l", "a cat", "-l", "a house", "--model", model, "--json"
    )
    assert (code, err) == (0, "")
    answer = json.loads(out)
    maps = oneclip.load(model).explain(images / "cat.png", ["a cat", "a house"])
    assert (answer["method"], answer["contrast"]) == (maps.method, "the other labels")
    assert (answer["width"], answer["height"]) == (256, 256)
    for index, found in enumerate(answer["labels"]):
        assert found["similarity"] == pytest.approx(float(maps.scores[index]), abs=1e-5)
        assert (found["peak"]["x"], found["peak"]["y"]) == maps.peak(index)[:2]
        assert [list(box.values())[:4] for box in found["boxes"]] == [
            list(box[:4]) for box in maps.boxes()[index]
        ]


def test_the_table_names_each_label_with_its_peak(run: Run, images: Path, model: Path) -> None:
    code, out, _ = run("explain", images / "cat.png", "-l", "a cat", "-l", "a house", "--model", model)
    assert code == 0
    assert "a cat" in out
    assert "a house" in out
    assert "similarity" in out


def test_the_maps_are_written_side_by_side(run: Run, images: Path, model: Path) -> None:
    code, _, err = run(
        "explain", images / "cat.png", "-l", "a cat", "-l", "a house", "--model", model, "-o", "map.png"
    )
    assert (code, err) == (0, "")
    with Image.open("map.png") as sheet:
        assert sheet.width > 2 * 256
        assert sheet.height > 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no labels given"),
        (("-l", " "), "a --label is empty; give words that describe an image, as in: oneclip explain"),
        (("-l", "cat", "-l", "cat"), "given twice"),
        (("-l", "cat", "--template", "a photo"), "no {} where the label goes"),
    ],
)
def test_a_command_line_without_proper_labels_is_refused(
    run: Run, images: Path, options: tuple[str, ...], message: str
) -> None:
    code, out, err = run("explain", images / "cat.png", *options)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images/cat.png", "-o", "map.xyz"), "map.xyz: no image format has the ending '.xyz'; use .png,"),
        (("images/cat.png", "-o", "no/map.png"), "no/map.png cannot be written: there is no folder no"),
        (("missing.png",), "missing.png: no such file"),
        (("images",), "images is a folder; expected an image file"),
    ],
)
def test_files_are_checked_before_the_model_is_loaded(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("oneclip.cli.options.load_encoder", lambda *_: pytest.fail("the model was loaded"))
    code, _, err = run("explain", *arguments, "-l", "cat")
    assert code == 1
    assert message in err
