"""`oneclip index`: updates, several roots, status, verify, compact, rebuild and watch."""

import json
import os
import shutil
from pathlib import Path

import pytest
from commandline import Run
from tiny import picture, write_tiny_model

from oneclip.search import Index
from oneclip.search.places import index_place


@pytest.fixture(autouse=True)
def indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the indexes of a test in its temporary folder, and date its images to the past."""
    monkeypatch.setenv("ONECLIP_INDEXES", str(tmp_path / "indexes"))
    return tmp_path / "indexes"


@pytest.fixture
def indexed(run: Run, images: Path, model: Path) -> Path:
    """The folder of images, with an index."""
    assert run("index", images, "-m", model).code == 0
    return images


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "other.safetensors", seed=1)


def counts(run: Run, *arguments: object) -> dict[str, int]:
    """Update and return the counts that are not 0."""
    code, out, err = run("index", *arguments, "--json")
    assert code == 0, err
    (answer,) = json.loads(out)
    keys = ("added", "changed", "moved", "removed", "failed", "unchanged")
    return {key: answer[key] for key in keys if answer[key]}


def test_an_update_counts_what_changed(run: Run, images: Path, model: Path) -> None:
    assert counts(run, images, "-m", model) == {"added": 8}
    (images / "cat.png").rename(images / "kitten.png")
    (images / "sun.png").unlink()
    picture(1).save(images / "new.png")
    (images / "broken.png").write_bytes(b"no image")
    assert counts(run, images) == {"added": 1, "moved": 1, "removed": 1, "failed": 1, "unchanged": 6}


def test_the_summary_names_the_index_and_its_model(run: Run, images: Path, model: Path) -> None:
    code, out, err = run("index", images, "-m", model)
    assert (code, out) == (0, "")
    assert err == f"images: 8 added\n8 images by {model}: {index_place(images)}\n"


def test_each_root_has_an_index_unless_one_is_named(
    run: Run, indexed: Path, model: Path, indexes: Path
) -> None:
    Path("more").mkdir()
    picture(1).save("more/new.png")
    assert run("index", indexed, "more", "-m", model).code == 0
    assert len(list(indexes.iterdir())) == 2
    assert counts(run, indexed, "more", "--index", "all.index", "-m", model) == {"added": 9}


def test_excluded_files_stay_excluded(run: Run, images: Path, model: Path) -> None:
    assert counts(run, images, "-m", model, "--exclude", "ca*") == {"added": 6}
    assert counts(run, images) == {"unchanged": 6}


def test_a_missing_folder_removes_nothing_unless_pruned(run: Run, indexed: Path) -> None:
    indexed.rename("elsewhere")
    code, _, err = run("index", indexed)
    assert code == 1
    assert "its images stay in the index" in err
    assert Index(index_place(indexed)).status().files == 8
    run("index", indexed, "--prune")
    assert Index(index_place(indexed)).status().files == 0


def test_a_folder_without_images_is_an_error(run: Run, images: Path, model: Path, indexes: Path) -> None:
    Path("empty").mkdir()
    code, _, err = run("index", "empty", "-m", model)
    assert code == 1
    assert "a folder without images" in err
    assert not indexes.exists()


# -------------------------------------------------------------------------------------- status, verify, compact, export


def test_status_lists_all_indexes(run: Run, indexed: Path, model: Path) -> None:
    code, out, err = run("index", "status")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:4] == ["images", str(model), "8", "0"]
    (one,) = json.loads(run("index", "status", "--json").out)
    assert (one["files"], one["model"], one["roots"]) == (8, str(model), {str(indexed.resolve()): True})


def test_status_of_one_index_and_its_failures(run: Run, indexed: Path) -> None:
    (indexed / "broken.png").write_bytes(b"no image")
    run("index", indexed)
    assert "1 files (--failed lists them)" in run("index", "status", indexed).out
    out = run("index", "status", indexed, "--failed").out
    assert out.splitlines()[1].startswith(f"{indexed.resolve() / 'broken.png'} ")
    answer = json.loads(run("index", "status", indexed / "sub", "--failed", "--json").out)
    assert [Path(one["path"]).name for one in answer["failures"]] == ["broken.png"]


def test_status_without_any_index_says_so(run: Run, images: Path) -> None:
    code, out, err = run("index", "status")
    assert (code, out) == (0, "")
    assert "`oneclip index ROOT` makes one" in err


def test_verify_finds_another_image_of_the_same_size_and_time(run: Run, indexed: Path) -> None:
    file = indexed / "cat.png"
    os.utime(file, (1_600_000_000, 1_600_000_000))
    run("index", indexed)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, (1_600_000_000, 1_600_000_000))
    assert counts(run, indexed) == {"unchanged": 8}
    assert run("index", "verify", indexed).code == 0
    code, out, err = run("index", "verify", indexed, "--content")
    assert (code, out) == (1, f"changed: {file.resolve()}\n")
    assert err == "8 contents compared; 1 difference, which the next update repairs\n"


def test_compact_removes_the_embeddings_of_deleted_files(run: Run, indexed: Path) -> None:
    (indexed / "cat.png").unlink()
    run("index", indexed)
    code, out, err = run("index", "compact", indexed)
    assert (code, out) == (0, "")
    assert "1 embedding of deleted files removed" in err


def test_an_action_without_an_index_is_an_error(run: Run, images: Path) -> None:
    for action in ("verify", "compact"):
        code, _, err = run("index", action)
        assert code == 1
        assert "there is no index of the current folder" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "ROOT"),
        (["status", "--prune"], "--prune does not belong to `oneclip index status`"),
        (["images", "--content"], "--content does not belong to `oneclip index ROOT`"),
        (["images", "--rebuild", "--watch"], "--rebuild and --watch exclude each other"),
        (["verify", "images", "."], "2 folders given"),
        (["verify", "images", "--index", "x"], "give --index or a ROOT"),
        (["export", "images", "x.lance"], "--to is missing"),
        (["export", "--to", "lance"], "the place of the export is missing"),
    ],
)
def test_an_invalid_command_exits_with_2(run: Run, images: Path, arguments: list[str], message: str) -> None:
    code, out, err = run("index", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_folder_that_is_called_like_an_action_is_given_as_a_path(
    run: Run, images: Path, model: Path
) -> None:
    images.rename("status")
    assert counts(run, "./status", "-m", model) == {"added": 8}


def test_a_folder_inside_an_indexed_folder_gets_no_index_by_accident(
    run: Run, indexed: Path, model: Path, indexes: Path
) -> None:
    (indexed / "sub").mkdir()
    picture(1).save(indexed / "sub" / "new.png")
    code, _, err = run("index", indexed / "sub")
    assert code == 1
    assert f"update that: oneclip index {indexed.resolve()}" in err
    assert len(list(indexes.iterdir())) == 1
    assert counts(run, indexed / "sub", "--index", "own.index", "-m", model) == {"added": 1}


def test_a_root_that_does_not_exist_is_an_error(run: Run, images: Path, indexes: Path) -> None:
    code, _, err = run("index", "nowhere")
    assert (code, err) == (1, "error: nowhere: no such folder\n")
    assert not indexes.exists()


# ------------------------------------------------------------------------------------------------------ rebuild, watch


def test_rebuild_replaces_the_model_and_keeps_what_is_excluded(
    run: Run, images: Path, model: Path, other_model: Path, indexes: Path
) -> None:
    run("index", images, "-m", model, "--exclude", "ca*")
    assert run("index", images, "-m", other_model, "--rebuild").code == 0
    with Index(index_place(images)) as index:
        assert (index.model_name, index.status().files) == (str(other_model), 6)
    assert [place.name for place in indexes.iterdir()] == [index_place(images).name]
    assert counts(run, images) == {"unchanged": 6}


def test_an_interrupted_rebuild_leaves_the_old_index_and_resumes(
    run: Run, indexed: Path, model: Path, other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.engine import InferenceModel

    encode, calls = InferenceModel.encode_pixels, iter(range(99))

    def interrupted(self: InferenceModel, batch: object) -> object:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(InferenceModel, "encode_pixels", interrupted)
    command = ("index", indexed, "-m", other_model, "--rebuild", "--batch-size", 2)
    assert run(*command).code == 130
    with Index(index_place(indexed)) as index:
        assert (index.model_name, index.status().files) == (str(model), 8)
    code, _, err = run(*command)
    assert code == 0
    assert "resuming: 4 images already done" in err
    with Index(index_place(indexed)) as index:
        assert (index.model_name, index.status().files) == (str(other_model), 8)
    assert next(calls) == 3 + 2


def test_a_rebuild_for_a_third_model_does_not_resume_that_of_the_second(
    run: Run, indexed: Path, other_model: Path, tmp_path: Path
) -> None:
    place = index_place(indexed)
    with Index(place.with_name(place.name + ".rebuild"), model=str(other_model)) as begun:
        begun.update(indexed)
    third = write_tiny_model(tmp_path / "third.safetensors", seed=2)
    assert run("index", indexed, "-m", third, "--rebuild").code == 0
    with Index(place) as index:
        assert index.model_name == str(third)


def test_a_rebuild_keeps_the_old_index_if_a_folder_is_missing(
    run: Run, indexed: Path, model: Path, other_model: Path
) -> None:
    shutil.move(indexed, "elsewhere")
    code, _, err = run("index", indexed, "-m", other_model, "--rebuild")
    assert code == 1
    assert "The old index stays" in err
    with Index(index_place(indexed)) as index:
        assert (index.model_name, index.status().files) == (str(model), 8)


def test_a_pruned_rebuild_forgets_missing_folders_but_never_replaces_an_index_by_an_empty_one(
    run: Run, images: Path, model: Path, other_model: Path, tmp_path: Path
) -> None:
    more = shutil.copytree(images, tmp_path / "more")
    rebuild = ("--index", tmp_path / "two.index", "-m", other_model, "--rebuild", "--prune")
    assert run("index", images, more, "--index", tmp_path / "two.index", "-m", model).code == 0
    shutil.rmtree(more)
    code, _, err = run("index", images, *rebuild)
    assert (code, f"{more}: no such folder; left out" in err) == (0, True)
    with Index(tmp_path / "two.index") as index:
        assert len(index.status().roots) == 1
    shutil.move(images, "elsewhere")
    code, _, err = run("index", images, *rebuild)
    assert (code, "stays as it was" in err) == (1, True)
    with Index(tmp_path / "two.index") as index:
        assert index.status().files == 8


def test_watch_updates_until_ctrl_c(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter(range(99))

    def wait(seconds: float) -> None:
        if next(waits) == 0:
            picture(1).save(images / "new.png")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("oneclip.cli.index.sleep", wait)
    code, out, err = run("index", images, "-m", model, "--watch")
    assert (code, out) == (130, "")
    assert "images: 8 added\n" in err
    assert "images: 1 added, 8 unchanged\n" in err
    assert err.endswith("watching ended; the index is complete up to here\n")
