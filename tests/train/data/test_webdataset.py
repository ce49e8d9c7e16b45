"""WebDataset tars: grouping of members, missing and damaged ones, and reading by ranges."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tars import members, png, tar, write_tar

from oneclip.config import PreprocessCfg
from oneclip.errors import DataError, DownloadError
from oneclip.image import Augment
from oneclip.train.data import BatchLoader, WebDataset


def captions(samples: WebDataset) -> list[str]:
    return [caption for number in range(len(samples)) for caption in samples.read(number).captions]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three tars, `s-00.tar` to `s-02.tar`, of four samples each."""
    for n in range(3):
        write_tar(tmp_path / f"s-{n:02}.tar", members(4, 4 * n))
    return tmp_path


@pytest.mark.parametrize("pattern", ["s-{00..02}.tar", "s-*.tar", "s-{00,01,02}.tar"])
def test_patterns_expand_to_tars_in_order(shards: Path, pattern: str) -> None:
    samples = WebDataset(str(shards / pattern))
    assert captions(samples) == [f"caption {n}" for n in range(12)]
    assert samples.read(5).image == png(5)
    assert samples.name(5) == f"{shards}/s-01.tar/0005"


def test_a_list_keeps_its_order(shards: Path) -> None:
    samples = WebDataset([str(shards / "s-02.tar"), str(shards / "s-00.tar")])
    assert captions(samples)[0] == "caption 8"


def test_members_in_any_order_find_each_other(tmp_path: Path) -> None:
    files = members(3)
    write_tar(tmp_path / "a.tar", dict(sorted(files.items(), key=lambda item: item[0][-3:])))
    assert captions(WebDataset(str(tmp_path / "a.tar"))) == [f"caption {n}" for n in range(3)]


def test_keys_without_an_image_or_a_caption_are_counted(tmp_path: Path) -> None:
    files = {**members(3), "lonely.png": png(0), "mute.txt": b"nothing to see", "both.json": b"{}"}
    samples = WebDataset(str(write_tar(tmp_path / "a.tar", files)))
    assert (len(samples), samples.left_out) == (3, 3)


def test_a_json_field_may_contain_several_captions(tmp_path: Path) -> None:
    files = {
        "0.jpg": png(0),
        "0.json": '{"alt": "แมวดำ", "caption": "no"}'.encode(),
        "1.jpg": png(1),
        "1.json": b'{"alt": ["one", "two"]}',
        "2.jpg": png(2),
        "2.json": b'{"caption": "elsewhere"}',
    }
    samples = WebDataset(str(write_tar(tmp_path / "a.tar", files)), captions="json", field="alt")
    assert [samples.read(n).captions for n in range(3)] == [["แมวดำ"], ["one", "two"], []]


def test_captions_of_any_script_are_read_whole(tmp_path: Path) -> None:
    caption = "แมวดำนอนบนเก้าอี้ — ein Bär 🐻"
    path = write_tar(tmp_path / "a.tar", {"แมว.png": png(0), "แมว.txt": caption.encode()})
    samples = WebDataset(str(path))
    assert captions(samples) == [caption]
    assert samples.name(0).endswith("/แมว")


def test_a_caption_that_is_not_utf8_breaks_only_its_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {**members(2), "0000.txt": b"\xff\xfe"})
    first, second = WebDataset(str(path)).read_many([0, 1])
    assert isinstance(first, DataError)
    assert "0000 cannot be read" in str(first)
    assert not isinstance(second, Exception)


def test_a_truncated_tar_raises_and_names_the_option(shards: Path) -> None:
    path = shards / "s-01.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"s-01\.tar is truncated or damaged after \d samples.*skip_broken"):
        WebDataset(str(shards / "s-*.tar"))


def test_the_readable_part_of_a_truncated_tar_is_used_on_request(shards: Path) -> None:
    path = shards / "s-01.tar"
    path.write_bytes(path.read_bytes()[:5000])
    samples = WebDataset(str(shards / "s-*.tar"), skip_broken=True)
    assert captions(samples) == [f"caption {n}" for n in (0, 1, 2, 3, 4, 5, 8, 9, 10, 11)]
    assert list(samples.skipped) == [str(path)]


def test_files_that_are_not_tars_are_left_out_on_request(shards: Path) -> None:
    (shards / "s-03.tar").write_bytes(b"<html>not found</html>")
    samples = WebDataset(str(shards / "s-*.tar"), skip_broken=True)
    assert len(samples) == 12
    assert list(samples.skipped) == [str(shards / "s-03.tar")]


def test_the_error_for_tars_without_samples_lists_their_file_types(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"0.jpg": png(0), "0.json": b"{}"})
    with pytest.raises(
        DataError, match=r"both an image and a caption \(\.txt\); the file types found are: \.jpg, \.json"
    ):
        WebDataset(str(path))


def test_links_are_followed_and_the_last_member_of_a_name_counts(tmp_path: Path) -> None:
    files = {"1.txt": b"one", "1.png": png(1), "2.txt": b"two", "3.txt": b"three", "4.txt": b"four"}
    more: list[tuple[str, bytes | str]] = [
        *(("2.png", "1.png"), ("3.png", "=1.png"), ("4.png", "nowhere.png")),
        *(("./1.png", png(7)), ("1.txt", b"one again")),
    ]
    path = tmp_path / "a.tar"
    path.write_bytes(tar(files, more=more))
    samples = WebDataset(str(path))
    found = [samples.read(number) for number in range(len(samples))]
    by_caption = {sample.captions[0]: sample.image for sample in found}
    assert by_caption == {"one again": png(7), "two": png(7), "three": png(7)}
    assert samples.left_out == 1  # the fourth has a caption alone


def test_a_compressed_tar_raises_whatever_its_name(tmp_path: Path) -> None:
    content = tar(members(2), mode="w:gz")
    (tmp_path / "a.tar").write_bytes(content)
    with fsspec.open("memory://far/z.tar", "wb") as file:
        file.write(content)
    for place in (str(tmp_path / "a.tar"), "memory://far/z.tar"):
        with pytest.raises(DataError, match=r"\.tar is compressed"):
            WebDataset(place)


def test_compressed_and_missing_tars_raise(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is compressed"):
        WebDataset(str(tmp_path / "a.tar.gz"))
    with pytest.raises(DataError, match="no such file"):
        WebDataset(str(tmp_path / "a-{0..3}.tar"))
    with pytest.raises(DataError, match="no file matches this pattern"):
        WebDataset(str(tmp_path / "a-*.tar"))


def test_a_tar_that_changes_during_a_training_raises(shards: Path) -> None:
    samples = pickle.loads(pickle.dumps(WebDataset(str(shards / "s-*.tar"))))
    write_tar(shards / "s-00.tar", members(3))
    with pytest.raises(DataError, match="has changed since the training started"):
        samples.read(0)


def test_the_identity_follows_the_content_and_not_the_time(shards: Path) -> None:
    first = WebDataset(str(shards / "s-*.tar")).identity
    write_tar(shards / "s-00.tar", members(4))
    assert WebDataset(str(shards / "s-*.tar")).identity == first
    write_tar(shards / "s-00.tar", {**members(4), "0000.txt": b"another, longer caption"})
    assert WebDataset(str(shards / "s-*.tar")).identity != first


@pytest.fixture
def remote() -> Iterator[str]:
    """Two tars behind memory:// addresses."""
    filesystem = fsspec.filesystem("memory")
    for n in range(2):
        filesystem.pipe(f"/shards/r-{n}.tar", tar(members(40, 40 * n)))
    yield "memory://shards/r-{0..1}.tar"
    filesystem.rm("/shards", recursive=True)


def test_tars_behind_addresses_are_read_by_ranges(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = WebDataset(remote)
    filesystem = type(fsspec.filesystem("memory"))
    ranges: list[tuple[int, int]] = []
    cat_file = filesystem.cat_file

    def noted(self: object, path: str, start: int, end: int) -> bytes:
        ranges.append((start, end))
        return cat_file(self, path, start=start, end=end)

    monkeypatch.setattr(filesystem, "cat_file", noted)
    found = samples.read_many(list(range(32, 48)))
    assert [sample.captions for sample in found] == [[f"caption {n}"] for n in range(32, 48)]  # type: ignore[union-attr]
    assert len(ranges) == 2  # one request per tar
    assert sum(end - start for start, end in ranges) < 16 * 3000
    assert samples.block_size == 16


def test_the_index_of_a_remote_tar_is_cached_and_renewed(remote: str, cache: Path) -> None:
    first = WebDataset(remote)
    assert len(list((cache / "tars").glob("*.index"))) == 2
    fsspec.filesystem("memory").pipe("/shards/r-0.tar", tar(members(30)))
    second = WebDataset(remote)
    assert (len(first), len(second)) == (80, 70)
    assert second.identity != first.identity


def test_a_truncated_remote_tar_raises(remote: str) -> None:
    fsspec.filesystem("memory").pipe("/shards/cut.tar", tar(members(40))[:9000])
    with pytest.raises(DataError, match=r"cut\.tar is truncated"):
        WebDataset("memory://shards/cut.tar")
    assert 0 < len(WebDataset("memory://shards/cut.tar", skip_broken=True)) < 40


def test_progress_counts_tars(shards: Path) -> None:
    done: list[int] = []
    WebDataset(str(shards / "s-*.tar"), progress=done.append)
    assert done == [1, 1, 1]


def test_a_tar_that_cannot_be_reached_raises_instead_of_breaking_its_samples(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.hub.ranges._RETRY_SECONDS", (0.0, 0.0))
    source = BatchLoader(WebDataset(remote), 8, Augment(PreprocessCfg(size=8)), threads=1)
    attempts: list[int] = []

    def failing(*arguments: object, **options: object) -> None:
        attempts.append(1)
        raise TimeoutError("the store is busy")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_ranges", failing)
    with pytest.raises(DownloadError, match=r"r-\d\.tar: the store is busy"):
        source.batch(0)
    assert len(attempts) == 3
    assert source.broken == 0
