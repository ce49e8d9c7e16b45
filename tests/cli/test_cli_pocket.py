"""What the commands say of "pocket", which knows drawings, and of the model to take for photographs."""

import json
from pathlib import Path

import pytest
from commandline import Run

from oneclip import zoo
from oneclip.cli.options import tell_pocket

ROOT = Path(__file__).resolve().parents[2]
NOTE = f"note: pocket knows drawings, icons and emoji; for photographs take --model {zoo.FOR_PHOTOGRAPHS}\n"


def test_the_model_for_photographs_has_published_weights() -> None:
    source = zoo.resolve(zoo.FOR_PHOTOGRAPHS)
    assert (source.kind, source.architecture) == ("pretrained", "ViT-B-32")


@pytest.mark.skipif(not zoo.pocket_path().is_file(), reason="pocket's weights are not in this checkout")
def test_it_is_said_once_on_stderr(run: Run, pictures: Path) -> None:
    code, out, err = run("classify", pictures, "-l", "a cat", "-l", "a tree", "--json")
    assert (code, err) == (0, NOTE)
    assert len(json.loads(out)["pictures"]) == 8


def test_of_other_models_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    tell_pocket("ViT-B/32")
    assert capsys.readouterr().err == ""
    tell_pocket("pocket")
    assert capsys.readouterr().err == NOTE


@pytest.mark.parametrize(
    "page", ["README.md", "docs/cli.md", "docs/models.md", "docs/encoder.md", "recipes/pocket/MODEL_CARD.md"]
)
def test_one_model_is_recommended_everywhere(page: str) -> None:
    assert zoo.FOR_PHOTOGRAPHS in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_examples_take_pocket_for_drawings_alone(run: Run, command: str) -> None:
    examples = [line for line in run(command, "--help").out.splitlines() if f" oneclip {command} " in line]
    for line in examples:
        is_of_photographs = any(word in line for word in ("holiday", "photo", ".jpg"))
        assert not is_of_photographs or zoo.FOR_PHOTOGRAPHS in line, line
    assert any(zoo.FOR_PHOTOGRAPHS in line for line in examples)
