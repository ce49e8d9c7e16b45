"""`oneclip search`: queries, which index is used, outputs, and what is said when something is left out."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commandline import Run
from PIL import Image
from tiny import picture, write_tiny_model

import oneclip
from oneclip.cli.app import run as run_app
from oneclip.cli.thumbnails import Protocol, encode_thumbnail
from oneclip.search import Index
from oneclip.search.places import index_place


@pytest.fixture(autouse=True)
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the indexes of a test in its temporary folder."""
    monkeypatch.setenv("ONECLIP_INDEXES", str(tmp_path / "indexes"))
    return tmp_path / "indexes"


@pytest.fixture
def searchable(run: Run, images: Path, model: Path) -> Path:
    """The folder of images, with an index."""
    assert run("index", images, "-m", model).code == 0
    return images


def names(out: str) -> list[str]:
    """Return the names of the files that `--files` prints."""
    return [Path(line).name for line in out.splitlines()]


# --------------------------------------------------------------------------------------------------------- queries


def test_the_first_search_indexes_the_folder_and_ranks_by_cosine(run: Run, images: Path, model: Path) -> None:
    code, out, err = run("search", "a cat", images, "-m", model, "--json")
    assert (code, err) == (0, "")
    encoder = oneclip.load(model)
    paths = sorted(images.glob("*.png"))
    cosines = encoder.similarity(paths, ["a cat"])[:, 0]
    results = json.loads(out)["results"]
    assert [Path(one["path"]).name for one in results] == [paths[i].name for i in np.argsort(-cosines)]
    assert [one["score"] for one in results] == pytest.approx(sorted(cosines, reverse=True), abs=2e-3)


def test_the_json_has_the_documented_fields(run: Run, searchable: Path, model: Path) -> None:
    answer = json.loads(run("search", "a cat", "-d", searchable, "--top", 1, "--json").out)
    (one,) = answer["results"]
    assert {"index", "model", "results", "hidden"} <= answer.keys()
    assert (answer["index"], answer["hidden"]) == (str(index_place(searchable)), 0)
    assert {"path", "score", "relevance", "width", "height", "taken_at", "sha256"} <= one.keys()
    assert os.path.isabs(one["path"])
    assert (one["width"], one["height"], one["taken_at"]) == (256, 256, None)
    assert 0 <= one["relevance"] <= 1


def test_an_image_finds_itself(run: Run, searchable: Path) -> None:
    assert names(run("search", searchable / "cat.png", "-d", searchable, "--files").out)[0] == "cat.png"
    assert (
        names(run("search", "--like", searchable / "sun.png", "-d", searchable, "--files").out)[0]
        == "sun.png"
    )


def test_an_image_from_stdin_finds_itself(
    run: Run, searchable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO((searchable / "fish.png").read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content))
    assert names(run("search", "-", "-d", searchable, "--files").out)[0] == "fish.png"


def test_weights_and_what_should_not_be_there_change_the_order(run: Run, searchable: Path) -> None:
    def found(*queries: object) -> list[str]:
        return names(run("search", *queries, "-d", searchable, "--files").out)

    heavy = found("9:./images/cat.png", "./images/sun.png")
    assert heavy[0] == "cat.png"
    assert found("9:./images/sun.png", "./images/cat.png")[0] == "sun.png"
    assert found("a cat", "--not", "9:./images/cat.png")[-1] == "cat.png"


def test_files_prints_absolute_paths_and_nothing_else(run: Run, searchable: Path) -> None:
    code, out, err = run("search", "a cat", searchable, "--files", "--top", 3)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 3
    assert all(Path(line).is_file() and os.path.isabs(line) for line in out.splitlines())
    assert run("search", "a cat", searchable, "-0", "--top", 3).out == out.replace("\n", "\0")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_printed_byte_for_byte(
    images: Path, model: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    raw = os.fsencode(images.resolve()) + b"/caf\xe9.png"
    os.rename(images / "cat.png", raw)
    assert run_app(["search", os.fsdecode(raw), "-d", "images", "-m", str(model), "-0", "--top", "1"]) == 0
    assert capsysbinary.readouterr().out == raw + b"\0"
    assert run_app(["search", "a cat", "-d", "images"]) == 0
    assert rb"caf\udce9.png" in capsysbinary.readouterr().out


# ------------------------------------------------------------------------------------------------- which index is used


def test_a_search_finds_new_files_unless_updates_are_switched_off(run: Run, searchable: Path) -> None:
    picture(5).save(searchable / "new.png")
    query = ("search", searchable / "new.png", "-d", searchable, "--files")
    assert "new.png" not in names(run(*query, "--no-update").out)
    assert names(run(*query).out)[0] == "new.png"


def test_a_subfolder_is_searched_with_the_index_of_the_folder_above(
    run: Run, searchable: Path, indexes: Path
) -> None:
    (searchable / "sub").mkdir()
    picture(5).save(searchable / "sub" / "new.png")
    assert names(run("search", "a cat", "-d", searchable / "sub", "--files").out) == ["new.png"]
    assert len(list(indexes.iterdir())) == 1


def test_a_folder_that_is_missing_now_is_searched_and_not_taken_for_words(
    run: Run, searchable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = searchable.rename(searchable.with_name("elsewhere"))
    monkeypatch.chdir(elsewhere)
    code, out, err = run("search", "a cat", f"../{searchable.name}", "--top", 1, "--files")
    assert (code, Path(out.strip()).parent.name) == (0, searchable.name)
    assert "its images stay in the index" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "missing/"], "missing/: no such folder"),
        (["x", "-d", "IMAGES/missing"], "no such folder"),
        (["x", "-d", "IMAGES/FIRST"], "is a file; expected a folder"),
        (["2:-"], "no weight"),
    ],
)
def test_a_mistyped_folder_searches_nothing(
    run: Run, searchable: Path, indexes: Path, words: list[str], message: str
) -> None:
    first = min(searchable.glob("*.png")).name
    code, out, err = run(
        "search", *(word.replace("IMAGES", str(searchable)).replace("FIRST", first) for word in words)
    )
    assert (code in (1, 2), out, len(list(indexes.iterdir()))) == (True, "", 1)
    assert message in err


def test_an_index_of_a_chosen_place_is_made_and_used(run: Run, images: Path, model: Path) -> None:
    assert run("search", "a cat", images, "--index", "my.index", "-m", model).code == 0
    answer = json.loads(run("search", "a cat", "--index", "my.index", "--json", "--no-update").out)
    assert len(answer["results"]) == 8
    assert answer["index"] == str(Path("my.index").absolute())
    code, _, err = run("search", "a cat", "--index", "my.index", "-d", ".")
    assert code == 1
    assert "is not in the index my.index" in err


def test_another_model_is_refused_with_the_command_that_rebuilds(
    run: Run, searchable: Path, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "other.safetensors", seed=1)
    code, out, err = run("search", "a cat", searchable, "-m", other)
    assert (code, out) == (1, "")
    assert "--rebuild" in err


def test_an_index_that_another_process_updates_is_searched_as_it_is(run: Run, searchable: Path) -> None:
    with Index(index_place(searchable)) as other, other.writing():
        code, out, err = run("search", "a cat", searchable)
    assert code == 0
    assert len(out.splitlines()) == 1 + 8
    assert err.startswith("note: not updated: another process is updating")


def test_ctrl_c_keeps_what_is_indexed(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.engine import InferenceModel

    encode, calls = InferenceModel.encode_pixels, iter(range(99))

    def interrupted(self: InferenceModel, batch: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceModel, "encode_pixels", interrupted)
    code, out, err = run("search", "a cat", images, "-m", model, "--batch-size", 2)
    assert (code, out) == (130, "")
    assert err == "interrupted: 4 images are indexed; run the same command to continue\n"
    assert run("search", "a cat", images, "--batch-size", 2).code == 0
    assert next(calls) == 3 + 2  # two batches were left


# ---------------------------------------------------------------------------------------- what is left out, and notes


def test_a_file_that_cannot_be_read_is_counted_once(run: Run, searchable: Path) -> None:
    (searchable / "cat.png").write_bytes(b"not an image")
    os.utime(searchable / "cat.png", (1_600_000_000, 1_600_000_000))
    code, _, err = run("search", "a cat", searchable)
    assert code == 0
    assert "note: 1 file could not be read; `oneclip index status --failed --index " in err
    assert "could not be read" not in run("search", "a cat", searchable).err


def test_hidden_results_are_counted(run: Run, searchable: Path) -> None:
    code, out, err = run("search", "a cat", searchable, "--min-relevance", 1, "--json", "--top", 5)
    answer = json.loads(out)
    assert (code, answer["results"], answer["hidden"]) == (0, [], 5)
    assert err == "note: 5 results hidden: relevance below 1.0\n"


def test_a_filter_without_matches_gives_an_empty_result_and_a_note(run: Run, searchable: Path) -> None:
    code, out, err = run("search", "a cat", searchable, "--where", "width > 9000")
    assert (code, out, err) == (0, "", "note: no image matches --where 'width > 9000'\n")


def test_a_filter_selects(run: Run, searchable: Path) -> None:
    found = names(run("search", "a cat", searchable, "--where", "name ~ 'CA'", "--files").out)
    assert sorted(found) == ["car.png", "cat.png"]


# ------------------------------------------------------------------------------------------------------- other outputs


def test_the_table_has_relevance_only_for_words(run: Run, searchable: Path) -> None:
    code, out, _ = run("search", "a cat", searchable, "--top", 2)
    assert code == 0
    assert out.splitlines()[0].split() == ["score", "relevance", "image"]
    assert re.search(r" %.* images/\w+\.png$", out.splitlines()[1])
    out = run("search", searchable / "cat.png", "-d", searchable).out
    assert out.splitlines()[0].split() == ["score", "image"]


def test_results_are_copied_with_their_rank_and_never_overwrite(run: Run, searchable: Path) -> None:
    Path("best").mkdir()
    best, second = names(run("search", "a cat", searchable, "--top", 2, "--files").out)
    Path("best", f"01-{best}").write_text("mine", encoding="utf-8")
    command = ("search", "a cat", searchable, "--top", 2, "--copy-to", "best")
    assert run(*command).err == "best: 2 images copied\n"
    stem = Path(best).stem
    assert sorted(os.listdir("best")) == sorted([f"01-{best}", f"01-{stem}-2.png", f"02-{second}"])
    assert Path("best", f"01-{best}").read_text(encoding="utf-8") == "mine"
    assert Path("best", f"01-{stem}-2.png").read_bytes() == (searchable / best).read_bytes()
    assert run(*command).err == "best: 0 images copied, 2 already there\n"


def test_results_are_linked(run: Run, searchable: Path) -> None:
    (best,) = run("search", "a cat", searchable, "--top", 1, "--files").out.splitlines()
    assert run("search", "a cat", searchable, "--top", 1, "--link-to", "best").err == "best: 1 links made\n"
    assert os.readlink(Path("best", f"01-{Path(best).name}")) == best


def test_a_page_of_the_results_is_written(run: Run, searchable: Path) -> None:
    code, _, err = run("search", "a cat", searchable, "--top", 3, "--html", "page.html")
    assert (code, err) == (0, "page.html: 3 images\n")
    page = Path("page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 3
    assert "<h1>a cat</h1>" in page


@pytest.mark.parametrize(
    ("variables", "start"),
    [({"TERM": "xterm-kitty"}, "\x1b_Ga=T"), ({"TERM_PROGRAM": "WezTerm"}, "\x1b]1337;File=")],
)
def test_a_terminal_that_shows_images_gets_thumbnails(
    run: Run, searchable: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], start: str
) -> None:
    for name in ("TERM", "TERM_PROGRAM", "TMUX", "STY", "KITTY_WINDOW_ID", "LC_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = ("search", "a cat", searchable, "--top", 2)
    assert start not in run(*command).out  # not a terminal
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert run(*command).out.count(start) == 2
    assert start not in run(*command, "--no-thumbnails").out
    monkeypatch.setenv("TMUX", "1")
    assert start not in run(*command).out


def test_kitty_receives_the_whole_image_in_chunks() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    sequence = encode_thumbnail(Image.fromarray(noise), Protocol.KITTY)
    commands = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", sequence)
    assert "".join(f"\x1b_G{keys};{data}\x1b\\" for keys, data in commands) == sequence
    assert all(len(data) <= 4096 for _, data in commands)
    assert len(commands) > 1
    assert [keys[-3:] for keys, _ in commands] == ["m=1"] * (len(commands) - 1) + ["m=0"]
    image = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in commands))))
    assert image.size == (160, 160)
    assert image.getpixel((80, 5))[3] == 0  # type: ignore[index]  # transparent above


# -------------------------------------------------------------------------------------------------------- invalid input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], 'oneclip search "a red car" ~/Photos'),
        (["images"], "no QUERY given"),
        (["a cat", "images", "."], "2 folders given"),
        (["a cat", "--files", "--json"], "exclude each other"),
        (["a cat", "--copy-to", "a", "--link-to", "b"], "exclude each other"),
        (["./images/cat.png", "--min-relevance", "0.5"], "--min-relevance needs words"),
        (["a cat", "--min-relevance", "2"], "--min-relevance"),
        (["a cat", "--top", "0"], "--top"),
    ],
)
def test_an_invalid_command_exits_with_2(
    run: Run, images: Path, indexes: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("search", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not indexes.exists()


INVALID = {
    ("a cat", "-d", "nowhere"): "nowhere: no such folder",
    ("a cat", "-d", "empty"): "a folder without images",
    ("a cat", "-d", "images", "--no-update"): "leave out --no-update to make one",
    ("a cat", "images", "--where", "widht > 3"): "no column 'widht'; did you mean width",
    ("  ", "images"): "an empty query",
    ("0:cat", "images"): "the weight of 'cat' is 0",
    ("./images/dog.png", "images"): "./images/dog.png: no such file or folder",
    ("dog.png", "images"): "dog.png: no such file or folder",
    ("./notes.txt", "images"): "./notes.txt: not an image",
    ("--like", "dog.png", "images"): "dog.png: no such image",
    ("a cat", "images", "--copy-to", "notes.txt"): "notes.txt is a file",
    ("a cat", "images", "--html", "nowhere/page.html"): "nowhere/page.html cannot be written",
    ("a cat", "images", "--index", "images"): "images is not an index",
    ("a cat", "images", "-m", "nosuch"): "'nosuch' is not a known model",
    ("a cat",): "this would index everything in",
}


def test_invalid_input_is_one_error_before_torch_is_imported(images: Path, indexes: Path) -> None:
    Path("empty").mkdir()
    Path("notes.txt").write_text("notes", encoding="utf-8")
    code = (
        "import sys\nsys.modules['torch'] = None  # importing it raises\nfrom oneclip.cli.app import run\n"
        f"print(*[run(['search', *line]) for line in {list(INVALID)!r}])"
    )
    environment = os.environ | {"ONECLIP_OFFLINE": "1", "HOME": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stdout.split() == ["1"] * len(INVALID), done.stderr
    assert len(errors) == len(INVALID), done.stderr
    for (arguments, message), error in zip(INVALID.items(), errors, strict=True):
        assert message in error, arguments
    assert not indexes.exists()
