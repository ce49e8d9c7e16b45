"""`oneclip duplicates`: table, JSON and paths, which index is used, and bad input."""

import json
import shutil
from pathlib import Path

import pytest
from commandline import Run


@pytest.fixture(autouse=True)
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the indexes of a test in its temporary folder."""
    monkeypatch.setenv("ONECLIP_INDEXES", str(tmp_path / "indexes"))
    return tmp_path / "indexes"


@pytest.fixture
def copies(images: Path) -> Path:
    """The folder of images with a copy of one of them, whose path is longer."""
    shutil.copy2(images / "cat.png", images / "cat again.png")
    return images


def test_the_table_and_the_summary_show_what_could_be_freed(run: Run, copies: Path, model: Path) -> None:
    code, out, err = run("duplicates", copies, "-m", model, "--kind", "bytes")
    assert code == 0
    best, copy = out.splitlines()[1:]
    assert best.split()[:2] == ["1", "best"]
    assert best.endswith("images/cat.png")
    assert copy.split()[0] == "equal"
    assert copy.endswith("images/cat again.png")
    size = (copies / "cat.png").stat().st_size / 1000
    assert err == f"1 group, 2 files, {size:.1f} kB could be freed\n"


def test_the_json_has_the_documented_fields(run: Run, copies: Path, model: Path) -> None:
    code, out, _ = run("duplicates", copies, "-m", model, "--kind", "bytes", "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer.keys() == {"index", "model", "groups"}
    (group,) = answer["groups"]
    assert group["kind"] == "bytes"
    best, copy = group["files"]
    assert (best["path"], copy["path"]) == (
        str((copies / "cat.png").resolve()),
        str((copies / "cat again.png").resolve()),
    )
    assert best["sha256"] == copy["sha256"]
    assert {"path", "bytes", "width", "height", "taken_at", "sha256", "similarity"} <= best.keys()
    assert (best["bytes"], best["similarity"]) == ((copies / "cat.png").stat().st_size, 1.0)


@pytest.mark.parametrize(("option", "end"), [("--files", "\n"), ("-0", "\0")])
def test_only_the_paths_of_spare_copies_are_printed(
    run: Run, copies: Path, model: Path, option: str, end: str
) -> None:
    _, out, _ = run("duplicates", copies, "-m", model, "--kind", "bytes", option)
    assert out == f"{(copies / 'cat again.png').resolve()}{end}"


def test_no_duplicates_are_no_error(run: Run, images: Path, model: Path) -> None:
    assert run("duplicates", images, "-m", model, "--kind", "bytes") == (0, "", "no duplicates\n")


def test_two_folders_are_compared_with_each_other(run: Run, images: Path, model: Path) -> None:
    Path("backup").mkdir()
    shutil.copy2(images / "cat.png", "backup/cat.png")
    command = ("duplicates", images, "backup", "-m", model, "--kind", "bytes", "--files")
    _, out, _ = run(*command)
    assert len(out.splitlines()) == 1
    assert run(*command, "--index", "both.index").out == out
    assert run("duplicates", images, "-m", model, "--kind", "bytes", "--files").out == ""


def test_a_folder_inside_an_indexed_one_uses_its_index(
    run: Run, copies: Path, model: Path, indexes: Path
) -> None:
    shutil.copytree(copies, copies / "sub")
    assert run("duplicates", copies, "-m", model).code == 0
    _, out, _ = run("duplicates", copies / "sub", "--kind", "bytes", "--files")
    assert out == f"{(copies / 'sub' / 'cat again.png').resolve()}\n"
    assert len(list(indexes.iterdir())) == 1


def test_the_index_is_used_as_it_is_with_no_update(run: Run, images: Path, model: Path) -> None:
    assert run("duplicates", images, "--no-update").code == 1
    run("duplicates", images, "-m", model)
    shutil.copy2(images / "cat.png", images / "cat again.png")
    assert run("duplicates", images, "--kind", "bytes", "--no-update").err == "no duplicates\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere: no such folder"),
        (["images", "--near", "2"], 2, "--near"),
        (["images", "--json", "--files"], 2, "exclude each other"),
        (["images", "--no-update"], 1, "there is no index of images; leave out --no-update"),
        (["empty"], 1, "no images"),
    ],
)
def test_bad_input_is_one_clear_error(
    run: Run, images: Path, model: Path, arguments: list[str], code: int, message: str
) -> None:
    Path("empty").mkdir()
    result = run("duplicates", *arguments, "-m", model)
    assert (result.code, result.out) == (code, "")
    assert message in result.err.splitlines()[-1]
