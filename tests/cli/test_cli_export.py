"""`oneclip export`: arguments, output and errors; the exports themselves are tested in tests/export."""

import json
import sys
from pathlib import Path

import pytest
from commandline import Run

import oneclip.export
from tests.export.wrong_tower import write_wrong_tower


@pytest.fixture(autouse=True)
def _wrong_towers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.modules[oneclip.export.export.__module__], "write_onnx", write_wrong_tower)
    monkeypatch.chdir(tmp_path)


def test_a_model_that_differs_is_one_line_and_no_folder(run: Run, model: Path) -> None:
    code, out, err = run("export", model, "out")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: out was not written: the exported model differs by")
    assert not Path("out").exists()


def test_the_json_has_the_files_and_the_parity(run: Run, model: Path) -> None:
    code, out, _ = run("export", "-m", model, "-o", "out", "--force", "--json")
    answer = json.loads(out)
    assert (code, answer["path"]) == (0, "out")
    assert sorted(answer["files"]) == sorted(path.name for path in Path("out").iterdir())
    assert answer["parity"] == json.loads(Path("out/parity.json").read_text())


def test_the_table_has_both_towers(run: Run, model: Path) -> None:
    code, out, err = run("export", model, "out", "--force")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[-2:]] == [["fp32", "images"], ["fp32", "texts"]]
    assert "oneclip.json" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int4"], "unknown precision 'int4'; available: fp32, fp16, int8"),
        (["more"], "unexpected argument 'more': oneclip export MODEL OUT"),
        (["--opset", "11"], "opset is 11; expected 18 to"),
    ],
    ids=["precision", "arguments", "opset"],
)
def test_a_wrong_argument_is_one_line(run: Run, model: Path, arguments: list[str], message: str) -> None:
    code, out, err = run("export", model, "out", *arguments)
    assert (code, out) == (2 if "unexpected" in message else 1, "")
    assert message in err
    assert "Traceback" not in err
