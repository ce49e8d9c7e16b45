"""The note about "pocket", which knows drawings, and the model recommended for photographs."""

import json
from pathlib import Path

import pytest
from commandline import Run

from oneclip import zoo
from oneclip.cli.options import note_pocket_scope

ROOT = Path(__file__).resolve().parents[2]
NOTE = (
    "note: pocket knows drawings (icons, emoji, clip art); for photographs use "
    f"{zoo.RECOMMENDED_FOR_PHOTOS}\n"
)


def test_the_model_for_photographs_has_published_weights() -> None:
    assert zoo.resolve(zoo.RECOMMENDED_FOR_PHOTOS).kind == "pretrained"
    [found] = zoo.search(zoo.RECOMMENDED_FOR_PHOTOS)
    assert found.extras == ()
    assert found.imagenet == 0.7281  # as open_clip publishes it


@pytest.mark.skipif(not zoo.pocket_path().is_file(), reason="pocket's weights are not in this checkout")
def test_the_note_is_printed_once_on_stderr(run: Run, images: Path) -> None:
    code, out, err = run("classify", images, "-l", "a cat", "-l", "a tree", "--json")
    assert (code, err) == (0, NOTE)
    assert len(json.loads(out)["images"]) == 8


def test_other_models_get_no_note(capsys: pytest.CaptureFixture[str]) -> None:
    note_pocket_scope("ViT-B/32")
    assert capsys.readouterr().err == ""
    note_pocket_scope("pocket")
    assert capsys.readouterr().err == NOTE


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/cli.md",
        "docs/models.md",
        "docs/encoder.md",
        "recipes/pocket/MODEL_CARD.md",
        "examples/demo.sh",
    ],
)
def test_one_model_is_recommended_everywhere(page: str) -> None:
    assert zoo.RECOMMENDED_FOR_PHOTOS in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_examples_take_pocket_for_drawings_alone(run: Run, command: str) -> None:
    examples = [line for line in run(command, "--help").out.splitlines() if f" oneclip {command} " in line]
    for line in examples:
        is_of_photographs = any(word in line for word in ("holiday", "photo", ".jpg"))
        assert not is_of_photographs or zoo.RECOMMENDED_FOR_PHOTOS in line, line
    assert any(zoo.RECOMMENDED_FOR_PHOTOS in line for line in examples)
