"""Identity of rows, rows that are kept or dropped, and files that are not read again."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tars import write_tar
from tiny import picture

import oneclip
from oneclip.embed.items import Failure, row_key
from oneclip.embed.result_collector import ResultCollector
from oneclip.embed.rows import EmbeddingMetadata
from oneclip.embed.run import EmbedOutcome, embed
from oneclip.embed.sources import find_sources
from oneclip.embed.store import EmbeddingStore
from oneclip.embed.work_units import ItemResult, ResultBatch

Embed = Callable[..., EmbedOutcome]  # the fixture `run`
OUTPUTS = ("vectors.npz", "vectors.parquet", "folder", "vectors.lance")


def needed(output: str) -> None:
    pytest.importorskip({".lance": "lance", ".npz": "numpy"}.get(Path(output).suffix, "pyarrow"))


def names(path: str = "vectors.npz") -> list[str]:
    return np.load(path)["names"].tolist()


@pytest.fixture
def old_photos(photos: Path) -> Path:
    """The photos, last changed in 2001: what was changed a moment ago may change again unnoticed."""
    for path in photos.iterdir():
        os.utime(path, (1e9, 1e9))
    return photos


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of files that were read."""
    from oneclip.embed.sources import files

    read, seen = files.read_bytes, []

    def noted(place: str) -> bytes:
        seen.append(place)
        return read(place)

    monkeypatch.setattr(files, "read_bytes", noted)
    return seen


# ------------------------------------------------------------------------------------------------------ identity


def test_a_path_is_one_row_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "p").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    ways = (
        "p/0.jpg",
        "./p/0.jpg",
        "p//0.jpg",
        "p/../p/./0.jpg",
        "../here/p/0.jpg",
        f"{tmp_path}/here/p/0.jpg",
    )
    assert {row_key(way) for way in ways} == {os.path.normcase("p/0.jpg")}
    assert row_key("../q/0.jpg") == row_key(f"{tmp_path}/q/0.jpg") == os.path.normcase(f"{tmp_path}/q/0.jpg")
    assert row_key("http://h/a/../b.jpg") == "http://h/a/../b.jpg"
    assert row_key(".") == row_key(str(tmp_path / "here")) == "."


@pytest.mark.parametrize("output", OUTPUTS)
def test_three_ways_to_write_a_folder_are_the_same_rows(run: Embed, photos: Path, output: str) -> None:
    needed(output)
    assert run("photos", output=output).encoded == 6
    for way in ("./photos", photos.resolve(), "photos/../photos/"):
        outcome = run(way, output=output)
        assert (outcome.kept, outcome.encoded, outcome.rows, outcome.dropped) == (6, 0, 6, {})


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_renamed_folder_is_not_encoded_again(run: Embed, photos: Path, output: str) -> None:
    needed(output)
    run("photos", output=output)
    before = np.load(output)["vectors"] if output.endswith("npz") else None
    photos.rename("holiday")
    outcome = run("holiday", output=output)
    assert (outcome.encoded, outcome.repeated) == (0, 6)
    assert outcome.rows == (6 if output.startswith("vectors.") and not output.endswith("lance") else 12)
    if before is not None:
        np.testing.assert_array_equal(np.load(output)["vectors"], before)
        assert names() == [f"holiday/{i}.jpg" for i in range(6)]


def test_content_known_to_a_cluster_gets_a_row(encoder: oneclip.Encoder, run: Embed, photos: Path) -> None:
    run("photos")
    digest = np.load("vectors.npz")["sha256"][2].decode()
    with (
        EmbeddingStore("vectors.npz", EmbeddingMetadata.for_encoder(encoder, "exact")) as store,
        store.error_table() as errors,
    ):
        collector = ResultCollector(store, EmbedOutcome())
        with collector.counting(errors):
            collector.add(
                ResultBatch(
                    0,
                    0,
                    [
                        ItemResult("new.jpg", "new.jpg", digest),
                        ItemResult("photos/1.jpg", "photos/1.jpg", ""),
                    ],
                )
            )
        assert store.finish(collector.names()) == 2
    assert (collector.outcome.repeated, collector.outcome.kept) == (1, 1)
    assert names() == ["new.jpg", "photos/1.jpg"]


# -------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("output", ["vectors.npz", "vectors.parquet"])
def test_a_shard_that_is_gone_or_cut_keeps_its_rows(run: Embed, photos: Path, output: str) -> None:
    needed(output)
    for name, members in (("a", "01"), ("b", "2345")):
        write_tar(f"{name}.tar", {f"{i}.jpg": (photos / f"{i}.jpg").read_bytes() for i in members})
    assert run("a.tar", "b.tar", output=output).rows == 6
    whole = Path("b.tar").read_bytes()
    Path("b.tar").write_bytes(whole[: whole.index(b"3.jpg") + 700])
    outcome = run("a.tar", "b.tar", output=output)
    assert (outcome.kept, outcome.rows, outcome.unlisted, outcome.dropped) == (3, 6, 2, {})  # 3.jpg is listed
    Path("b.tar").unlink()
    outcome = run("a.tar", "b.tar", output=output)
    assert (outcome.kept, outcome.rows, outcome.unlisted, outcome.failed) == (2, 6, 4, 1)


def test_a_folder_that_is_gone_keeps_its_rows_and_others_are_dropped_and_counted(
    run: Embed, photos: Path
) -> None:
    for folder in ("share", "share2"):
        Path(folder).mkdir()
        picture(8 + len(folder)).save(f"{folder}/x.jpg")
    run("photos", "share", "share2")
    Path("share").rename("unmounted")
    (photos / "3.jpg").unlink()
    (photos / "4.jpg").write_bytes(b"broken")
    outcome = run("photos", "share")
    assert names() == [*(f"photos/{i}.jpg" for i in (0, 1, 2, 5)), "share/x.jpg"]
    assert outcome.unlisted == 1
    assert outcome.dropped == {
        "not in the sources of this run": 2,  # photos/3.jpg, share2/x.jpg
        "their content has changed and can no longer be read": 1,
    }


@pytest.mark.parametrize("rows", ["photos/0.jpg,a, b\nphotos/1.jpg,c\n", 'photos/1.jpg,c\nphotos/0.jpg,"a\n'])
def test_a_table_with_a_row_that_cannot_be_read_keeps_all_rows(run: Embed, photos: Path, rows: str) -> None:
    Path("t.csv").write_text("path,caption\nphotos/0.jpg,a\nphotos/1.jpg,c\n", encoding="utf-8")
    assert run("t.csv").rows == 2
    Path("t.csv").write_text("path,caption\n" + rows, encoding="utf-8")
    outcome = run("t.csv")
    assert (outcome.kept, outcome.failed, outcome.rows, outcome.unlisted) == (1, 1, 2, 1)


def test_a_failure_hides_only_items_below_it() -> None:
    failure = Failure("./b.tar", "gone")
    assert [failure.hides(key) for key in ("b.tar/x.jpg", "b.tar", "b.tar2/x.jpg", "a.tar/x.jpg")] == [
        *(True, True, False, False)
    ]
    assert Failure("t.csv", "cut").hides("t.csv:7")
    assert Failure(".", "gone").hides("x.jpg")
    assert not Failure(".", "gone").hides(os.path.abspath(os.sep + "x.jpg"))


# ------------------------------------------------------------------------------------------- size and time


@pytest.mark.parametrize("output", OUTPUTS)
def test_files_of_the_same_size_and_time_are_not_read_again(
    run: Embed, old_photos: Path, reads: list[str], output: str
) -> None:
    needed(output)
    run("photos", output=output)
    assert len(reads) == 6
    reads.clear()
    assert run("./photos", output=output).kept == 6
    assert reads == []
    picture(9).save(old_photos / "1.jpg")
    assert run("photos", output=output).encoded == 1
    assert reads == ["photos/1.jpg"]
    reads.clear()
    assert run("photos", output=output, verify=True).kept == 6
    assert len(reads) == 6


@pytest.mark.parametrize("output", ["vectors.npz", "folder"])
def test_a_file_that_was_only_touched_is_read_once(
    run: Embed, old_photos: Path, reads: list[str], output: str
) -> None:
    run("photos", output=output)
    os.utime(old_photos / "2.jpg", (1.1e9, 1.1e9))
    for expected in (["photos/2.jpg"], []):
        reads.clear()
        assert run("photos", output=output).kept == 6
        assert reads == expected


def test_a_change_within_the_clock_s_tick_is_seen(run: Embed, photos: Path) -> None:
    first = picture(1)
    first.save("a.bmp")
    run("a.bmp")
    before = os.stat("a.bmp")
    picture(2, first.size).save("a.bmp")
    os.utime("a.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat("a.bmp").st_size == before.st_size
    assert run("a.bmp").encoded == 1


def test_members_of_a_shard_that_has_not_changed_are_not_read(
    run: Embed, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar("a.tar", {f"{i}.jpg": (photos / f"{i}.jpg").read_bytes() for i in range(3)})
    os.utime("a.tar", (1e9, 1e9))
    run("a.tar")
    monkeypatch.setattr("oneclip.embed.sources.tars._read_at", lambda *a: pytest.fail("it was read"))
    assert run("a.tar").kept == 3


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_without_stamps_is_resumed(
    encoder: oneclip.Encoder, run: Embed, old_photos: Path, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(output)
    with monkeypatch.context() as patch:
        patch.setattr("oneclip.embed.formats.npz.stamp_columns", lambda stamps: {})
        patch.setattr("oneclip.embed.formats.parquet.stamp_columns", lambda stamps: {})
        run("photos/0.jpg", "photos/1.jpg", output=output)
    outcome = run("photos", output=output)
    assert (outcome.kept, outcome.encoded, outcome.rows) == (2, 4, 6)
    with EmbeddingStore(output, EmbeddingMetadata.for_encoder(encoder, "exact")) as store:
        assert embed(encoder, find_sources(["photos"]), store).kept == 6
