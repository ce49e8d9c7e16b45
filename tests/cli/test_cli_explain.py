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
        (("-l", " "), "a --label is empty"),
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


def test_an_unknown_image_format_is_refused_before_the_maps_are_drawn(
    run: Run, images: Path, model: Path
) -> None:
    code, _, err = run("explain", images / "cat.png", "-l", "cat", "--model", model, "-o", "map.xyz")
    assert code == 1
    assert "map.xyz: no image format has the ending '.xyz'; use .png, .jpg or .webp" in err
