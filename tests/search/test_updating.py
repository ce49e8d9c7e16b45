"""Updates of an index: what is read, encoded, kept and removed."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from images import write_image

import oneclip
from oneclip.errors import ConfigError, DataError, OutputError
from oneclip.hub.cache import sha256_of
from oneclip.search import Index, UpdateResult
from oneclip.search import changes as changes_module
from oneclip.search import store as store_module
from oneclip.search.catalogue import Catalogue
from oneclip.search.store import IndexStore
from tests import programs


def counts(result: UpdateResult) -> dict[str, int]:
    names = ("added", "changed", "moved", "removed", "failed", "unchanged", "encoded")
    return {name: count for name in names if (count := getattr(result, name))}


def paths(index: Index) -> list[str]:
    return [os.path.relpath(entry.path, next(iter(index.catalogue.roots()))) for entry in index.entries()]


def vectors_by_name(index: Index) -> dict[str, np.ndarray]:
    snapshot = index.snapshot()
    return {
        os.path.basename(entry.path): snapshot.scan.vectors(snapshot.rows_of(np.array([entry.content])))[0]
        for entry in index.entries()
    }


def test_a_first_update_stores_what_the_encoder_computes(
    index: Index, photos: Path, encoder: oneclip.Encoder
) -> None:
    assert counts(index.update(photos)) == {"added": 6, "encoded": 6}
    found = vectors_by_name(index)
    expected = encoder.encode_images([photos / name for name in found])
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=2e-6)


def test_each_kind_of_change_is_counted_and_only_new_content_is_encoded(index: Index, photos: Path) -> None:
    index.update(photos)
    (photos / "sub").mkdir()
    (photos / "0.png").rename(photos / "sub" / "renamed.png")
    (photos / "1.png").unlink()
    write_image(photos / "2.png", 22)
    shutil.copy2(photos / "3.png", photos / "copy.png")
    write_image(photos / "new.png", 7)
    result = index.update()
    assert counts(result) == {
        "added": 2, "changed": 1, "moved": 1, "removed": 1, "unchanged": 3, "encoded": 2,
    }  # fmt: skip
    assert paths(index) == ["2.png", "3.png", "4.png", "5.png", "copy.png", "new.png", "sub/renamed.png"]
    assert counts(index.update()) == {"unchanged": 7}


def test_a_new_time_alone_computes_nothing(index: Index, photos: Path) -> None:
    index.update(photos)
    os.utime(photos / "0.png", (1_700_000_000, 1_700_000_000))
    assert counts(index.update()) == {"unchanged": 6}
    assert index.catalogue.files(1)[b"0.png"].mtime_ns == 1_700_000_000 * 10**9


def test_a_file_written_a_moment_ago_is_read_again(index: Index, photos: Path) -> None:
    picture = write_image(photos / "0.png", 0, time=0)
    os.utime(picture)  # now
    index.update(photos)
    assert index.catalogue.files(1)[b"0.png"].mtime_ns is None
    assert counts(index.update()) == {"unchanged": 6}


def test_a_time_in_the_future_is_trusted(index: Index, photos: Path) -> None:
    os.utime(photos / "0.png", (4_000_000_000, 4_000_000_000))  # a clock that was wrong
    index.update(photos)
    assert index.catalogue.files(1)[b"0.png"].mtime_ns == 4_000_000_000 * 10**9


def test_a_case_only_rename_is_a_move(index: Index, photos: Path) -> None:
    index.update(photos)
    (photos / "0.png").rename(photos / "0.PNG")
    assert counts(index.update()) == {"moved": 1, "unchanged": 5}
    assert "0.PNG" in paths(index)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_are_indexed_and_found(index: Index, photos: Path) -> None:
    strange = os.fsdecode(os.fsencode(photos) + b"/caf\xe9 \xff.png")
    write_image(Path(strange), 9)
    index.update(photos)
    assert counts(index.update()) == {"unchanged": 7}
    assert index.search(Path(strange), top_k=1)[0].path == strange
    assert [os.path.basename(hit.path) for hit in index.search("x", where="name ~ caf", top_k=9)] == [
        os.path.basename(strange)
    ]


def test_a_loop_of_links_ends(index: Index, photos: Path) -> None:
    (photos / "loop").symlink_to(photos, target_is_directory=True)
    (photos / "itself.png").symlink_to(photos / "itself.png")
    result = index.update(photos)
    assert counts(result) == {"added": 6, "failed": 1, "encoded": 6}


def test_a_root_that_is_missing_or_empty_removes_nothing_unless_pruned(index: Index, photos: Path) -> None:
    index.update(photos)
    away = photos.rename(photos.with_name("away"))
    result = index.update()
    assert (counts(result), len(result.unlisted)) == ({}, 1)
    photos.mkdir()
    result = index.update()
    assert (counts(result), len(result.unlisted)) == ({}, 1)
    assert len(index.entries()) == 6
    photos.rmdir()
    away.rename(photos)
    assert counts(index.update()) == {"unchanged": 6}
    shutil.rmtree(photos)
    assert counts(index.update(prune=True)) == {"removed": 6}
    assert index.entries() == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may list every folder")
def test_an_unreadable_folder_keeps_its_rows(index: Index, photos: Path) -> None:
    (photos / "sub").mkdir()
    (photos / "0.png").rename(photos / "sub" / "0.png")
    index.update(photos)
    (photos / "sub").chmod(0)
    try:
        result = index.update()
    finally:
        (photos / "sub").chmod(0o755)
    assert counts(result) == {"unchanged": 5}
    assert "sub/0.png" in paths(index)


def test_an_unlisted_folder_keeps_its_rows_and_others_lose_theirs(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "sub").mkdir()
    (photos / "0.png").rename(photos / "sub" / "0.png")
    index.update(photos)
    (photos / "1.png").unlink()
    walk = changes_module.walk_files

    def walk_without_sub(folder, onerror, exclude):  # type: ignore[no-untyped-def]
        onerror(PermissionError(13, "Permission denied", os.path.join(folder, "sub")))
        return (path for path in walk(folder, onerror, exclude) if f"{os.sep}sub{os.sep}" not in path)

    monkeypatch.setattr(changes_module, "walk_files", walk_without_sub)
    assert counts(index.update()) == {"removed": 1, "unchanged": 4}
    assert paths(index) == ["2.png", "3.png", "4.png", "5.png", "sub/0.png"]


def test_a_file_that_failed_is_tried_again_only_when_something_changed(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = photos / "bad.png"
    bad.write_bytes(b"no image")
    os.utime(bad, (1_600_000_000, 1_600_000_000))
    result = index.update(photos)
    assert counts(result) == {"added": 6, "failed": 1, "encoded": 6}
    assert "is not an image" in result.failures[0].reason
    assert [failure.name for failure in index.failures()] == [str(bad)]
    again = index.update()
    assert (counts(again), again.failures) == ({"failed": 1, "unchanged": 6}, [])
    monkeypatch.setattr(changes_module, "installed_decoders", lambda: "a new one")
    assert len(index.update().failures) == 1
    monkeypatch.undo()
    write_image(bad, 8, time=1_600_000_100)
    assert counts(index.update()) == {"added": 1, "unchanged": 6, "encoded": 1}
    assert index.failures() == []


def test_an_image_that_can_no_longer_be_decoded_loses_its_row_and_one_that_cannot_be_read_keeps_it(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.update(photos)
    (photos / "0.png").write_bytes(b"damaged")
    os.utime(photos / "1.png", (1_700_000_000, 1_700_000_000))
    import oneclip.search.updating as updating

    read = updating.read_bytes

    def read_or_fail(path: str) -> bytes:
        if path.endswith("1.png"):
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(updating, "read_bytes", read_or_fail)
    assert counts(index.update()) == {"failed": 2, "unchanged": 4}
    assert paths(index) == ["1.png", "2.png", "3.png", "4.png", "5.png"]


def test_excluded_files_leave_the_index_and_stay_out(index: Index, photos: Path) -> None:
    index.update(photos)
    assert counts(index.update(exclude=["0.*", "1.png"])) == {"removed": 2, "unchanged": 4}
    assert counts(index.update()) == {"unchanged": 4}
    assert counts(index.update(exclude=[])) == {
        "added": 2,
        "unchanged": 4,
    }  # their embeddings were still there


def test_one_folder_of_a_root_is_updated_alone(index: Index, photos: Path) -> None:
    (photos / "sub").mkdir()
    write_image(photos / "sub" / "a.png", 11)
    index.update(photos)
    (photos / "0.png").unlink()
    write_image(photos / "sub" / "b.png", 12)
    assert counts(index.update(photos, under="sub")) == {"added": 1, "unchanged": 1, "encoded": 1}
    assert "0.png" in paths(index)


def test_a_root_that_is_mounted_elsewhere_is_recognized(index: Index, photos: Path) -> None:
    index.update(photos)
    moved = photos.rename(photos.with_name("elsewhere"))
    assert counts(index.update(moved)) == {"unchanged": 6}
    assert list(index.catalogue.roots()) == [str(moved)]


def test_the_index_of_a_renamed_folder_goes_with_it(
    photos: Path, encoder: oneclip.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECLIP_INDEXES", str(photos.with_name("indexes")))
    other = photos.with_name("others")
    other.mkdir()
    write_image(other / "a.png", 40)
    for root in (photos, other):
        with Index.for_root(root, model=encoder) as index:
            index.update(root)
    renamed = photos.rename(photos.with_name("renamed"))
    with Index.for_root(renamed, model=encoder) as index:
        assert index.search("x", top_k=1)[0].path.startswith(str(renamed))
        assert counts(index.update(renamed)) == {"unchanged": 6}
    assert len(list(photos.with_name("indexes").iterdir())) == 2


def test_roots_inside_each_other_are_refused(index: Index, photos: Path) -> None:
    index.update(photos)
    with pytest.raises(ConfigError, match="one is inside the other"):
        index.update(photos.parent)


def test_two_new_roots_inside_each_other_are_refused_and_one_given_twice_is_one(
    index: Index, photos: Path
) -> None:
    (photos / "sub").mkdir()
    write_image(photos / "sub" / "a.png", 11)
    with pytest.raises(ConfigError, match="one is inside the other"):
        index.update(photos, photos / "sub")
    assert index.catalogue.roots() == {}
    assert counts(index.update(photos, f"{photos}{os.sep}", os.fsencode(photos))) == {
        "added": 7,
        "encoded": 7,
    }


@pytest.mark.parametrize("name", ["missing", "0.png"])
def test_a_mistyped_root_is_refused_and_not_remembered(index: Index, photos: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no such folder|is a file; expected a folder"):
        index.update(photos / name)
    assert index.catalogue.roots() == {}


@pytest.mark.parametrize("root", [None, 3, [], "", "a\0b"])
def test_a_root_that_is_no_path_is_named(index: Index, root: object) -> None:
    with pytest.raises(ConfigError, match="is not the path of a folder"):
        index.update(root)  # type: ignore[arg-type]


@pytest.mark.parametrize("under", ["..", "../other", f"{os.sep}tmp", "sub/../.."])
def test_under_stays_inside_the_root(index: Index, photos: Path, under: str) -> None:
    with pytest.raises(ConfigError, match="expected a folder inside the root"):
        index.update(photos, under=under)


def test_one_pattern_to_exclude_may_be_given_as_a_string(index: Index, photos: Path) -> None:
    assert counts(index.update(photos, exclude="0.png")) == {"added": 5, "encoded": 5}


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes in folders")
def test_files_that_cannot_be_opened_load_no_model_again(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(photos / "pipe.png")
    (photos / "link.png").symlink_to("missing.png")
    assert index.update(photos).failed == 2
    monkeypatch.setattr(Index, "encoder", property(lambda self: pytest.fail("the model was loaded")))
    assert counts(index.update()) == {"failed": 2, "unchanged": 6}
    monkeypatch.undo()
    write_image(photos / "missing.png", 20)
    assert counts(index.update()) == {"added": 2, "failed": 1, "unchanged": 6, "encoded": 1}


def test_an_index_without_a_root_says_what_to_do(index: Index) -> None:
    with pytest.raises(DataError, match="oneclip index ROOT"):
        index.update()


def test_an_update_without_changes_loads_no_torch(index: Index, photos: Path) -> None:
    index.update(photos)
    program = """
import sys
from oneclip.search import Index
print(Index(sys.argv[1]).update(), "torch" in sys.modules)
"""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", program, index.path], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "6 unchanged False"


def test_two_writers_at_once_are_refused(index: Index, photos: Path) -> None:
    index.update(photos)
    with index.writing(), pytest.raises(OutputError, match="another process is updating"):
        Index(index.path).update()


def test_an_update_asks_the_catalogue_for_no_content_that_is_new(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.update(photos)
    write_image(photos / "new.png", 7)
    shutil.copy2(photos / "3.png", photos / "copy.png")
    asked, content_of = [], Catalogue.content_of
    monkeypatch.setattr(
        Catalogue, "content_of", lambda self, digest: asked.append(digest) or content_of(self, digest)
    )
    assert counts(index.update()) == {"added": 2, "unchanged": 6, "encoded": 1}
    assert asked == [sha256_of(photos / "copy.png")]


def test_equal_files_that_are_decoded_at_once_are_stored_once(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("copy1.png", "copy2.png"):
        shutil.copy2(photos / "0.png", photos / name)
    # as if each was looked for before another was stored
    monkeypatch.setattr(IndexStore, "find", lambda self, digest: None)
    monkeypatch.setattr(store_module, "PART_SECONDS", 0)
    assert counts(index.update(photos, batch_size=1)) == {"added": 8, "encoded": 6}
    assert (index.status().contents, index.status().dead_rows) == (6, 0)


def test_files_whose_segment_is_damaged_are_encoded_again_when_they_are_read(
    index: Index, photos: Path
) -> None:
    index.update(photos)
    (segment,) = index.segments.iterdir()
    segment.write_bytes(b"damaged")
    os.utime(photos / "0.png", (1_700_000_000, 1_700_000_000))
    assert counts(index.update()) == {"unchanged": 6, "encoded": 1}


def test_an_interrupted_update_keeps_what_is_done(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oneclip.embed.run import BatchEncoder

    begin, calls = BatchEncoder.begin, []

    def interrupted(self, values):  # type: ignore[no-untyped-def]
        calls.append(len(values))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return begin(self, values)

    monkeypatch.setattr(BatchEncoder, "begin", interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.update(photos, batch_size=2)
    monkeypatch.undo()
    assert len(index.entries()) == 4
    assert counts(index.update()) == {"added": 2, "unchanged": 4, "encoded": 2}


def test_a_full_disk_loses_nothing(index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.update(photos)
    write_image(photos / "new.png", 7)
    import oneclip.search.store as store

    def full(*arguments: object) -> str:
        raise OutputError("segment could not be written: No space left on device")

    monkeypatch.setattr(store, "write_segment", full)
    with pytest.raises(OutputError, match="No space left"):
        index.update()
    monkeypatch.undo()
    assert len(index.search("x", top_k=10)) == 6
    assert counts(index.update()) == {"added": 1, "unchanged": 6, "encoded": 1}


def test_programs_can_search_while_one_updates(index: Index, photos: Path) -> None:
    index.update(photos)
    reader = Index(index.path, model=index.encoder)
    before = reader.snapshot()
    write_image(photos / "new.png", 7)
    index.update()
    assert len(before.contents) == 6
    assert len(reader.search("x", top_k=10)) == 7
    done = programs.run(
        [
            "-c",
            "import sys; from oneclip.search import Index; print(len(Index(sys.argv[1]).entries()))",
            index.path,
        ]
    )
    assert done.stdout.strip() == "7"
