"""Sort: where images go, what is never lost, how it continues, and the way back."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import picture

import oneclip
from oneclip.errors import DataError, OutputError
from oneclip.search import Index, sort_files
from oneclip.search.sort import SortPlan, SortResult, carry_out, exclude_folder, folder_names, plan_sort
from oneclip.search.sort_list import LIST, read_list, undo_sort

LABELS = ["a cat", "a dog", "a tree"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images; two of the same name in different folders."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(5):
        picture(i).save(folder / f"{i}.png")
        os.utime(folder / f"{i}.png", ns=(10**18 + i, 10**18 + i))
    picture(5).save(folder / "sub" / "0.png")
    return folder


@pytest.fixture
def index(photos: Path, encoder: oneclip.Encoder, tmp_path: Path) -> Index:
    index = Index(tmp_path / "index", model=encoder)
    index.update(photos)
    return index


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "sorted"


def plan(index: Index, into: Path, labels: list[str] | None = None, **options: object) -> SortPlan:
    return plan_sort([(index, index.entries())], labels or LABELS, into, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of each image file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_each_image_gets_the_label_that_classify_finds(
    index: Index, into: Path, encoder: oneclip.Encoder
) -> None:
    for placement in plan(index, into).placements:
        label, probability = encoder.classify(placement.entry.path, LABELS)[0]
        assert placement.label == label
        assert placement.probability == pytest.approx(probability, abs=1e-4)
        assert Path(placement.target).parent == into / label


def test_planning_changes_nothing_and_encodes_no_image(
    index: Index, into: Path, encoder: oneclip.Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "encode_images", None)
    plan(index, into)
    assert not into.exists()


def test_copies_keep_content_and_times(index: Index, into: Path, photos: Path) -> None:
    before = contents(photos)
    result = carry_out(plan(index, into))
    assert (result.done, result.failures) == (6, [])
    assert contents(photos) == before
    assert sorted(contents(into).values()) == sorted(before.values())
    (copy,) = into.rglob("3.png")
    assert copy.stat().st_mtime_ns == 10**18 + 3


def test_a_second_file_of_the_same_name_gets_a_number(index: Index, into: Path) -> None:
    carry_out(plan(index, into, ["one", "two"], min_probability=0.0))
    found = sorted(path.name for path in into.rglob("0*.png"))
    assert found in (["0 (2).png", "0.png"], ["0.png", "0.png"])
    assert len(list(into.rglob("*.png"))) == 6


def test_nothing_is_overwritten(index: Index, into: Path) -> None:
    planned = plan(index, into)
    for label in LABELS:
        (into / label).mkdir(parents=True)
        (into / label / "3.PNG").write_text("mine")  # the same name where case is ignored
    carry_out(plan(index, into))
    assert [path.read_text() for path in into.rglob("3.PNG")] == ["mine"] * 3
    assert len(list(into.rglob("3 (2).png"))) == 1
    (target,) = (one.target for one in planned.placements if one.entry.path.endswith("4.png"))
    Path(target).unlink()
    Path(target).write_text("appeared after the plan was made")
    again = carry_out(planned)
    assert Path(target).read_text() == "appeared after the plan was made"
    assert target in {read.target for read in read_list(into / LIST)}
    assert "File exists" in next(str(failure) for failure in again.failures if "4.png" in failure.name)


def test_less_probable_images_stay(index: Index, into: Path) -> None:
    everything = plan(index, into)
    limit = sorted(one.probability for one in everything.placements)[3]
    some = plan(index, into, min_probability=limit)
    assert (len(some.placements), some.unsure) == (3, 3)


def test_moved_files_are_gone_from_their_folder(index: Index, into: Path, photos: Path) -> None:
    before = contents(photos)
    carry_out(plan(index, into), "move")
    assert contents(photos) == {}
    assert sorted(contents(into).values()) == sorted(before.values())


def test_links_lead_to_the_files(index: Index, into: Path, photos: Path) -> None:
    carry_out(plan(index, into), "link")
    links = list(into.rglob("*.png"))
    assert len(links) == 6
    assert all(link.is_symlink() and link.resolve().is_relative_to(photos) for link in links)


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_undo_restores_everything(index: Index, into: Path, photos: Path, action: str) -> None:
    before = contents(photos)
    carry_out(plan(index, into), action)  # type: ignore[arg-type]
    result = undo_sort(into / LIST)
    assert (result.undone, result.kept) == (6, [])
    assert contents(photos) == before
    assert (photos / "3.png").stat().st_mtime_ns == 10**18 + 3
    assert not into.exists()


def change(path: Path) -> None:
    path.write_bytes(b"edited")


@pytest.mark.parametrize(
    ("action", "damage", "reason"),
    [
        ("copy", lambda source, target: change(target), "it has changed since"),
        ("copy", lambda source, target: source.unlink(), "the only copy"),
        ("copy", lambda source, target: change(source), "the only copy"),
        ("move", lambda source, target: change(target), "it has changed since"),
        ("move", lambda source, target: change(source), "there is another"),
        ("link", lambda source, target: (target.unlink(), change(target)), "no longer the link"),
    ],
)
def test_undo_keeps_what_changed_since_and_says_so(
    index: Index, into: Path, action: str, damage: Callable[[Path, Path], None], reason: str
) -> None:
    carry_out(plan(index, into), action)  # type: ignore[arg-type]
    row = read_list(into / LIST)[2]
    damage(Path(row.source), Path(row.target))
    kept = {path: path.read_bytes() for path in map(Path, row[:2]) if path.exists()}
    result = undo_sort(into / LIST)
    assert result.undone == 5
    assert [failure.name for failure in result.kept] == [row.target]
    assert reason in result.kept[0].reason
    assert {path: path.read_bytes() for path in kept} == kept
    assert (into / LIST).exists()


def interrupt_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    place, calls = sort_files.place_file, iter(range(999))

    def interrupted(source: str, target: str, action: object) -> None:
        if next(calls) == count:
            raise KeyboardInterrupt
        place(source, target, action)  # type: ignore[arg-type]

    monkeypatch.setattr("oneclip.search.sort.place_file", interrupted)


@pytest.mark.parametrize("action", ["copy", "move", "link"])
def test_an_interrupted_sort_continues_without_doubling(
    index: Index, into: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    before = contents(photos)
    interrupt_after(2, monkeypatch)
    first = carry_out(plan(index, into), action)  # type: ignore[arg-type]
    assert (first.done, first.interrupted) == (2, True)
    monkeypatch.undo()
    index.update()
    second = carry_out(plan(index, into), action)  # type: ignore[arg-type]
    assert second.done == 4
    assert sorted(contents(into).values()) == sorted(before.values())
    undo_sort(into / LIST)
    assert contents(photos) == before


def test_a_sort_that_is_complete_does_nothing_when_repeated(index: Index, into: Path) -> None:
    carry_out(plan(index, into))
    again = plan(index, into)
    assert (again.placements, again.done) == ([], 6)


def test_the_list_names_a_file_before_it_is_touched(
    index: Index, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(source: str, target: str, action: object) -> None:
        assert (source, target) in {row[:2] for row in read_list(into / LIST)}

    monkeypatch.setattr("oneclip.search.sort.place_file", check)
    assert carry_out(plan(index, into)).done == 6


def test_undo_removes_what_a_killed_sort_left(index: Index, into: Path) -> None:
    carry_out(plan(index, into))
    first = Path(read_list(into / LIST)[0].target)
    first.rename(first.with_name(sort_files.TEMPORARY))  # as if killed while it was copied
    assert undo_sort(into / LIST).undone == 5
    assert not into.exists()


def test_a_list_whose_last_row_was_cut_off_is_read_and_continued(index: Index, into: Path) -> None:
    carry_out(plan(index, into))
    whole = (into / LIST).read_bytes()
    (into / LIST).write_bytes(whole[:-40])
    assert len(read_list(into / LIST)) == 5
    carry_out(plan(index, into))
    assert len(read_list(into / LIST)) == 6


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n"])
def test_another_file_is_no_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.csv").write_text(content)
    with pytest.raises(DataError, match="not a list of `oneclip sort`"):
        undo_sort(tmp_path / "other.csv")


def test_a_full_disk_ends_the_sort_with_nothing_lost(
    index: Index, into: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(photos)

    def full(source: str, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OutputError, match="0 of 6 images are sorted, nothing is lost; free some space"):
        carry_out(plan(index, into))
    assert contents(photos) == before
    assert contents(into) == {}
    assert not list(into.rglob(sort_files.TEMPORARY))


def move_across(monkeypatch: pytest.MonkeyPatch, photos: Path) -> None:
    """Make renames out of a folder fail as between file systems."""
    rename = os.rename

    def refuse(source: str, target: str) -> None:
        if str(source).startswith(str(photos)):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)


def test_a_move_to_another_file_system_copies_and_deletes(
    index: Index, into: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(photos)
    move_across(monkeypatch, photos)
    assert carry_out(plan(index, into), "move").failures == []
    assert contents(photos) == {}
    assert sorted(contents(into).values()) == sorted(before.values())
    (moved,) = into.rglob("3.png")
    assert moved.stat().st_mtime_ns == 10**18 + 3


def test_a_move_whose_copy_differs_keeps_the_original(
    index: Index, into: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(photos)
    move_across(monkeypatch, photos)
    monkeypatch.setattr(shutil, "copyfile", lambda source, target: Path(target).write_bytes(b"damaged"))
    result = carry_out(plan(index, into), "move")
    assert len(result.failures) == 6
    assert "differs" in result.failures[0].reason
    assert contents(photos) == before
    assert contents(into) == {}


def test_a_move_whose_original_cannot_be_deleted_leaves_one_file(
    index: Index, into: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, unlink = contents(photos), os.unlink

    def refuse(path: str) -> None:
        if str(path).startswith(str(photos)):
            raise PermissionError(errno.EACCES, "Permission denied")
        unlink(path)

    move_across(monkeypatch, photos)
    monkeypatch.setattr(os, "unlink", refuse)
    assert len(carry_out(plan(index, into), "move").failures) == 6
    assert contents(photos) == before
    assert contents(into) == {}


def test_a_file_that_changed_since_it_was_indexed_is_not_sorted(
    index: Index, into: Path, photos: Path
) -> None:
    (photos / "3.png").write_bytes((photos / "4.png").read_bytes())
    (photos / "2.png").unlink()
    result = carry_out(plan(index, into), "move")
    assert result.done == 4
    assert {os.path.basename(failure.name) for failure in result.failures} == {"2.png", "3.png"}
    assert (photos / "3.png").exists()


def test_a_symbolic_link_is_not_moved(index: Index, into: Path, photos: Path) -> None:
    (photos / "link.png").symlink_to("0.png")
    index.update()
    result = carry_out(plan(index, into), "move")
    assert [os.path.basename(failure.name) for failure in result.failures] == ["link.png"]
    assert (photos / "link.png").is_symlink()


def test_two_sorts_at_once_into_one_folder_are_refused(index: Index, into: Path) -> None:
    planned = plan(index, into)
    errors: list[OutputError] = []

    def second(count: int) -> None:
        try:
            carry_out(planned)
        except OutputError as error:
            errors.append(error)

    result: SortResult = carry_out(planned, report=second)
    assert result.done == 6
    assert "another process is sorting" in str(errors[0])


def test_images_in_the_folder_itself_are_not_sorted_again(index: Index, photos: Path) -> None:
    inside = photos / "sorted"
    carry_out(plan(index, inside))
    index.update()
    assert len(index.entries()) == 12
    again = plan(index, inside)
    assert (again.placements, again.done) == ([], 6)


def test_a_folder_can_be_left_out_of_the_index(index: Index, photos: Path) -> None:
    inside = photos / "sorted [1]"
    carry_out(plan(index, inside))
    assert exclude_folder(index, str(inside)) == [str(photos)]
    assert exclude_folder(index, str(inside)) == []
    index.update()
    assert len(index.entries()) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_are_sorted_and_restored(index: Index, into: Path, photos: Path) -> None:
    name = os.fsdecode(b'caf\xe9, "1"\n.png')
    picture(7).save(photos / "x.png")
    (photos / "x.png").rename(photos / name)
    index.update()
    carry_out(plan(index, into), "move")
    assert [path.name for path in into.rglob("caf*")] == [name]
    assert undo_sort(into / LIST).kept == []
    assert (photos / name).exists()


def test_a_name_of_255_bytes_leaves_room_for_a_number(index: Index, into: Path, photos: Path) -> None:
    long = "x" * 251 + ".png"
    for folder, seed in ((photos, 7), (photos / "sub", 7)):
        picture(seed).save(folder / long)
    index.update()
    result = carry_out(plan(index, into))
    assert (result.done, result.failures) == (8, [])


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("a cat", "a cat"),
        ("Übung", "Übung"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", "_"),
        (".hidden", "hidden"),
        ("end. ", "end"),
        ("con", "con_"),
        ("COM1.jpg", "COM1.jpg_"),
        ("line\nbreak", "line_break"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_label_becomes_a_folder_name_that_every_system_allows(label: str, name: str) -> None:
    assert folder_names([label]) == {label: name}


def test_labels_that_differ_in_case_or_in_forbidden_characters_get_folders_of_their_own() -> None:
    assert list(folder_names(["Cat", "cat", "a/b", "a:b"]).values()) == ["Cat", "cat (2)", "a_b", "a_b (2)"]
