"""`oneclip sort`: plan, copies, moves and links, undo, Ctrl-C, and bad input."""

import json
from pathlib import Path

import pytest
from commandline import Run
from tiny import write_tiny_model

LABELS = ("-l", "a cat", "-l", "a dog", "-l", "a tree")


@pytest.fixture(autouse=True)
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the indexes of a test in its temporary folder."""
    monkeypatch.setenv("ONECLIP_INDEXES", str(tmp_path / "indexes"))


def labels_of(folder: str) -> dict[str, str]:
    """Return the folder of each sorted image."""
    return {path.name: path.parent.name for path in Path(folder).rglob("*.png")}


def test_images_are_sorted_as_classify_says(run: Run, images: Path, model: Path) -> None:
    answer = json.loads(run("classify", images, *LABELS, "-m", model, "--json").out)
    expected = {Path(one["path"]).name: one["labels"][0]["label"] for one in answer["images"]}
    code, out, err = run("sort", images, *LABELS, "-m", model, "--into", "sorted")
    assert (code, out) == (0, "")
    assert labels_of("sorted") == expected
    assert len(list(images.glob("*.png"))) == 8
    assert err.startswith("8 images copied to ")
    assert "oneclip sort --undo " in err


def test_a_dry_run_prints_the_plan_and_changes_nothing(run: Run, images: Path, model: Path) -> None:
    code, out, err = run("sort", images, *LABELS, "-m", model, "--into", "sorted", "--dry-run")
    assert code == 0
    assert len(out.splitlines()) == 9
    assert all("sorted/" in line and " %" in line for line in out.splitlines()[1:])
    assert err == "8 images would be copied; nothing was changed\n"
    assert not Path("sorted").exists()


def test_the_json_has_the_documented_fields(run: Run, images: Path, model: Path) -> None:
    code, out, _ = run("sort", images, *LABELS, "-m", model, "--into", "sorted", "--move", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["action"], answer["sorted"], answer["unsure"], answer["skipped"]) == ("move", 8, 0, [])
    assert all(Path(one["to"]).exists() and not Path(one["path"]).exists() for one in answer["images"])
    assert Path(answer["list"]).exists()


@pytest.mark.parametrize("option", [(), ("--move",), ("--link",)])
def test_undo_takes_everything_back(run: Run, images: Path, model: Path, option: tuple[str, ...]) -> None:
    before = {path: path.read_bytes() for path in images.glob("*.png")}
    assert run("sort", images, *LABELS, "-m", model, "--into", "sorted", *option).code == 0
    code, _, err = run("sort", "--undo", "sorted/oneclip-sort.csv")
    assert (code, err) == (0, "8 images taken back\n")
    assert {path: path.read_bytes() for path in images.glob("*.png")} == before
    assert not Path("sorted").exists()


def test_undo_reports_what_it_leaves(run: Run, images: Path, model: Path) -> None:
    run("sort", images, *LABELS, "-m", model, "--into", "sorted")
    (copy,) = Path("sorted").rglob("cat.png")
    copy.write_bytes(b"edited")
    code, out, err = run("sort", "--undo", "sorted/oneclip-sort.csv", "--json")
    assert code == 1
    assert json.loads(out)["undone"] == 7
    assert f"{copy.resolve()} was left as it is: it has changed since" in err
    assert copy.exists()


def test_copies_inside_the_sorted_folder_are_left_out_of_its_index(
    run: Run, images: Path, model: Path
) -> None:
    command = ("sort", images, *LABELS, "-m", model, "--into", images / "by label")
    code, _, err = run(*command)
    assert code == 0
    assert "left out of the index" in err
    assert run(*command).err.startswith("0 images copied")
    assert run("duplicates", images, "--kind", "bytes").err == "no duplicates\n"


def test_less_probable_images_are_left_and_counted(run: Run, images: Path, model: Path) -> None:
    _, _, err = run(
        "sort", images, *LABELS, "-m", model, "--into", "sorted", "--min-probability", 1, "--dry-run"
    )
    assert "8 left where they are: not probable enough" in err


def test_ctrl_c_says_how_to_continue_and_how_to_undo(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.search import sort

    place, calls = sort.place_file, iter(range(99))

    def interrupted(source: str, target: str, action: object) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        place(source, target, action)  # type: ignore[arg-type]

    monkeypatch.setattr(sort, "place_file", interrupted)
    command = ("sort", images, *LABELS, "-m", model, "--into", "sorted")
    code, _, err = run(*command)
    assert code == 130
    assert err.startswith("interrupted: 3 of 8 images copied; run the same command to continue")
    monkeypatch.setattr(sort, "place_file", place)
    assert "5 images copied" in run(*command).err
    assert len(list(Path("sorted").rglob("*.png"))) == 8


def test_a_sigmoid_model_accepts_a_single_label(run: Run, images: Path, tmp_path: Path) -> None:
    sigmoid = write_tiny_model(tmp_path / "sigmoid.safetensors", init_logit_bias=-1.0)
    assert run("sort", images, "-l", "a cat", "-m", sigmoid, "--into", "sorted").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["images", *LABELS], 2, "no --into DIR given"),
        (["images", "--into", "sorted"], 2, "no labels given"),
        ([*LABELS, "--into", "sorted"], 2, "no ROOT given"),
        (["images", "-l", "a cat", "--into", "sorted"], 2, "only one label given"),
        (["images", "-l", "a cat", "-l", "A  Cat", "--into", "sorted"], 2, "are the same to this model"),
        (["images", *LABELS, "--template", "photo", "--into", "sorted"], 2, "{}"),
        (["images", *LABELS, "--into", "sorted", "--move", "--link"], 2, "exclude each other"),
        (["images", *LABELS, "--into", "images/cat.png"], 1, "is a file; expected a folder"),
        (["images", "--undo", "list.csv"], 2, "needs nothing else"),
        (["--undo", "nowhere.csv"], 1, "nowhere.csv cannot be read"),
        (["nowhere", *LABELS, "--into", "sorted"], 1, "nowhere: no such folder"),
    ],
)
def test_bad_input_is_one_clear_error(
    run: Run, images: Path, model: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run("sort", *arguments, "-m", model)
    assert (result.code, result.out) == (code, "")
    assert message in result.err.splitlines()[-1]
    assert not Path("sorted").exists()
