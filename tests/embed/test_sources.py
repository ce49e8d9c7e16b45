"""Items, names and failures of each kind of source."""

import base64
import gzip
import os
import posixpath
import subprocess
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tars import tar, write_tar

from oneclip.embed.items import Failure, Item
from oneclip.embed.sources import find_sources
from oneclip.embed.sources.tars import TarSource
from oneclip.errors import DataError, DownloadError, MissingExtraError, OfflineError
from oneclip.hub.addresses import expand_pattern


def items(*words: object, **options: object) -> list[Item | Failure]:
    return [item for source in find_sources([str(word) for word in words], **options) for item in source]  # type: ignore[arg-type]


def names(*words: object, **options: object) -> list[str]:
    return [item.name for item in items(*words, **options)]


def test_a_folder_is_walked_and_a_named_file_may_have_any_suffix(photos: Path) -> None:
    (photos / "notes.doc").write_bytes(b"a file")
    (photos / ".hidden.jpg").write_bytes(b"a file")
    assert names(photos) == [f"photos/{i}.jpg" for i in range(6)]
    assert names("photos/notes.doc") == ["photos/notes.doc"]


def test_a_pattern_expands_sorted_and_an_existing_name_is_literal(photos: Path) -> None:
    assert names("photos/[2-4].jpg") == ["photos/2.jpg", "photos/3.jpg", "photos/4.jpg"]
    Path("[2-4].jpg").write_bytes(b"a file")
    assert names("[2-4].jpg") == ["[2-4].jpg"]
    with pytest.raises(DataError, match="no file matches"):
        names("photos/*.gif")


def test_braces_count_with_leading_zeros_and_choose(tmp_path: Path) -> None:
    assert expand_pattern("a/{008..010}.tar") == ["a/008.tar", "a/009.tar", "a/010.tar"]
    assert expand_pattern("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    with pytest.raises(DataError, match="counts from 3 to 1"):
        expand_pattern("{3..1}.tar")


@pytest.mark.parametrize("word", ["lists/all.txt", "@lists/all.txt", "@lists/all.lst"])
def test_a_list_has_paths_that_are_relative_to_it(photos: Path, word: str) -> None:
    Path("lists").mkdir()
    Path(word.lstrip("@")).write_text("../photos/1.jpg\n\n/abs/2.jpg\r\n", encoding="utf-8")
    assert names(word) == ["photos/1.jpg", "/abs/2.jpg"]
    assert names(word, folder="x/y") == ["x/photos/1.jpg", "/abs/2.jpg"]


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
def test_a_tar_yields_the_bytes_of_its_images(photos: Path, suffix: str, mode: str) -> None:
    members = {
        "k/1.jpg": b"one",
        "k/1.txt": b"a one",
        "k/1.json": b"{}",
        "k/2.PNG": b"two",
        "k/._2.png": b"mac",
    }
    write_tar(f"s-0{suffix}", members, mode)
    found = items(f"s-{{0..0}}{suffix}")
    assert [item.name for item in found] == [f"s-0{suffix}/k/1.jpg", f"s-0{suffix}/k/2.PNG"]
    assert [item.read() for item in found if isinstance(item, Item)] == [b"one", b"two"]
    assert [item.read() for item in items(f"s-0{suffix}", texts=True) if isinstance(item, Item)] == [b"a one"]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_truncated_tar_yields_its_first_items(photos: Path, compressed: bool) -> None:
    write_tar("s.tar", {f"{i}.jpg": bytes([i]) * 20_000 for i in range(8)})
    content = Path("s.tar").read_bytes()
    name = "s.tar.gz" if compressed else "s.tar"
    whole = gzip.compress(content, 0) if compressed else content
    Path(name).write_bytes(whole[: len(whole) // 2 + 700])
    *before, last = items(name)
    assert len(before) >= 3
    assert isinstance(last, Failure)
    assert "truncated or damaged" in last.reason


LINKS: list[tuple[str, bytes | str]] = [
    ("b/link.jpg", "../a/1.jpg"),
    ("hard.jpg", "=a/2.jpg"),
    ("chain.jpg", "b/link.jpg"),
    ("early.jpg", "late/blob"),
    ("out.jpg", "../../etc/passwd"),
    ("round.jpg", "round.jpg"),
    ("notes.txt", "a/1.jpg"),
    ("late/blob", b"late"),
    ("./a/1.jpg", b"new one"),
]


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar", "w:gz"), ("a.tar.gz", "w:gz")])
def test_links_in_a_shard_are_followed_and_of_one_name_the_last_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    """The contents are those that `tar -x` leaves behind."""
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(tar({"a/1.jpg": b"old one", "a/2.jpg": b"two"}, more=LINKS, mode=mode))
    found = list(TarSource(name, texts=False))
    contents = {item.name: item.read() for item in found if isinstance(item, Item)}
    Path("unpacked").mkdir()
    subprocess.run(["tar", "-xf", name, "-C", "unpacked"], check=True)
    unpacked = [path for path in Path("unpacked").rglob("*.jpg") if os.path.isfile(path)]
    expected = {path.relative_to("unpacked").as_posix(): path.read_bytes() for path in unpacked}
    assert {posixpath.normpath(key).removeprefix(f"{name}/"): v for key, v in contents.items()} == expected
    assert set(expected) == {"a/1.jpg", "a/2.jpg", "b/link.jpg", "hard.jpg", "chain.jpg", "early.jpg"}
    assert sorted(str(failure) for failure in found if isinstance(failure, Failure)) == [
        f"{name}/out.jpg is a link to ../../etc/passwd, which is not in the tar",
        f"{name}/round.jpg is a link to round.jpg, which is not in the tar",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_a_pipe_called_like_a_shard_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    (failure,) = TarSource(str(tmp_path / "a.tar"), texts=False)
    assert str(failure).endswith("a.tar is a pipe; expected a regular file")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_in_a_remote_tar_are_followed(mode: str) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/far/a.tar", tar({"a/1.jpg": b"one", "a/2.jpg": b"two"}, more=LINKS[:-1], mode=mode))
    found = list(TarSource("memory://far/a.tar", texts=False))
    contents = {item.name: item.read() for item in found if isinstance(item, Item)}
    assert {name.removeprefix("memory://far/a.tar/"): content for name, content in contents.items()} == {
        "a/1.jpg": b"one",
        "a/2.jpg": b"two",
        "b/link.jpg": b"one",
        "chain.jpg": b"one",
        "hard.jpg": b"two",
        "early.jpg": b"late",
    }
    assert [failure.name for failure in found if isinstance(failure, Failure)] == [
        "memory://far/a.tar/out.jpg",
        "memory://far/a.tar/round.jpg",
    ]


@pytest.mark.parametrize("again", [b"again", "2.jpg"])
def test_a_repeated_member_of_a_remote_tar_is_a_failure(again: bytes | str) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/far/b.tar", tar({"a/1.jpg": b"one"}, more=[("./a/1.jpg", again)]))
    item, failure = TarSource("memory://far/b.tar", texts=False)
    assert isinstance(item, Item)
    assert item.read() == b"one"
    assert "1.jpg is in the tar twice; the first was used, because the tar is read while" in str(failure)


def test_a_tar_that_is_damaged_before_its_first_image_says_so(photos: Path) -> None:
    content = tar({"a.json": b"{}", "b.jpg": b"b"})
    Path("s.tar").write_bytes(content[:1024] + b"?" * 2048)
    (failure,) = items("s.tar")
    assert "s.tar is truncated or damaged after 0 items" in str(failure)


def test_a_remote_tar_without_links_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/far/c.tar", tar({"a/1.jpg": b"one"}))
    opened = []
    open_tar_file = TarSource._opened
    monkeypatch.setattr(
        TarSource, "_opened", lambda *of, **how: opened.append(of) or open_tar_file(*of, **how)
    )
    assert len(list(TarSource("memory://far/c.tar", texts=False))) == len(opened) == 1


def test_shards_that_are_missing_or_hold_nothing_are_failures(photos: Path) -> None:
    write_tar("empty.tar", {"a.json": b"{}"})
    Path("broken.tar").write_bytes(b"no tar" * 1000)
    reasons = [str(item) for item in items("gone.tar", "empty.tar", "broken.tar")]
    assert "gone.tar: no such file" in reasons[0]
    assert "without images" in reasons[1]
    assert "truncated or damaged" in reasons[2]


def test_a_csv_table_finds_its_column_and_its_separator(photos: Path) -> None:
    Path("t.csv").write_text("id;image_path;caption\n1;photos/0.jpg;a cat, grey\n2;;none\n", encoding="utf-8")
    found = items("t.csv")
    assert found[0].name == "photos/0.jpg"
    assert found[1] == Failure("t.csv:2", "t.csv:2: its column 'image_path' is empty")
    captions = [item for item in items("t.csv", texts=True) if isinstance(item, Item)]
    assert [(item.name, item.read()) for item in captions] == [
        ("t.csv:1", b"a cat, grey"),
        ("t.csv:2", b"none"),
    ]
    assert names("t.csv", column="image_path", folder="f")[0] == "f/photos/0.jpg"


def test_a_row_that_is_not_as_the_header_says_is_one_failure(photos: Path) -> None:
    Path("t.csv").write_text("path,caption\nphotos/0.jpg,a cat, grey\nphotos/1.jpg,ok\nphotos/2.jpg\n")
    first, second, third = items("t.csv")
    assert isinstance(second, Item)
    assert "line 2 of t.csv has 3 fields and its header has 2" in str(first)
    assert "line 4 of t.csv has 1 field and its header has 2" in str(third)


def test_backslashes_separate_folders_where_that_finds_the_file(photos: Path) -> None:
    Path("t.csv").write_text("path\nphotos\\0.jpg\nphotos\\gone.jpg\n", encoding="utf-8")
    Path("list.txt").write_text("photos\\1.jpg\n", encoding="utf-8")
    assert names("t.csv", "list.txt") == ["photos/0.jpg", "photos\\gone.jpg", "photos/1.jpg"]


def test_base64_in_a_column_of_paths_is_reported_in_one_line(photos: Path) -> None:
    Path("t.csv").write_text("image\n" + "iVBORw0K" * 30_000 + "\n", encoding="utf-8")
    (failure,) = items("t.csv")
    assert isinstance(failure, Failure)
    assert "has 240,000 characters (iVBORw0" in str(failure)
    assert len(str(failure)) < 300


def test_a_table_without_a_usual_column_requires_its_name(photos: Path) -> None:
    Path("t.csv").write_text("id,picture\n1,photos/0.jpg\n", encoding="utf-8")
    with pytest.raises(
        DataError,
        match=r"which column contains the images\? Choose it with --column NAME; it has 'id', 'picture'",
    ):
        items("t.csv")
    with pytest.raises(DataError, match="did you mean 'picture'"):
        items("t.csv", column="pictur")


def test_a_parquet_table_may_hold_paths_bytes_or_what_datasets_writes(photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table(
        {
            "path": ["photos/0.jpg", "http://h/x.jpg", None],
            "jpg": [b"one", b"two", b""],
            "image": [{"bytes": b"1", "path": "a.jpg"}, {"bytes": None, "path": "photos/1.jpg"}, None],
        }
    )
    pq.write_table(table, "t.parquet")
    (source,) = find_sources(["t.parquet"])
    assert source.count() == 3
    assert names("t.parquet") == ["photos/0.jpg", "http://h/x.jpg", "t.parquet:3"]
    assert [i.read() for i in items("t.parquet", column="jpg") if isinstance(i, Item)] == [b"one", b"two"]
    first, second, third = items("t.parquet", column="image")
    assert isinstance(first, Item)
    assert first.read() == b"1"
    assert second.name == "photos/1.jpg"
    assert isinstance(third, Failure)


def test_a_row_whose_struct_has_no_path_is_one_failure(photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": None, "path": 5}, {"bytes": None, "path": 0}]
    pq.write_table(pa.table({"image": rows}), "t.parquet")
    first, second = items("t.parquet")
    assert str(first) == "t.parquet:1: its column 'image' contains int; expected a path"
    assert isinstance(second, Failure)


def test_a_column_of_numbers_is_refused(photos: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"path": [1, 2]}), "t.parquet")
    with pytest.raises(DataError, match="contains int; expected paths, addresses or bytes"):
        items("t.parquet")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.txt"])
def test_a_missing_or_binary_list_or_table_is_an_error(photos: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        items(name)
    Path(name).write_bytes(base64.b64decode("/////w=="))
    with pytest.raises(DataError, match=r"UTF-8|not a Parquet file"):
        items(name)


def test_texts_are_not_read_from_image_files(photos: Path) -> None:
    with pytest.raises(DataError, match="texts are read from"):
        items("photos/0.jpg", texts=True)


# -------------------------------------------------------------------------------------------------- addresses


class Server(SimpleHTTPRequestHandler):
    """The current folder; says nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(photos: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "ONECLIP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    handler: type[BaseHTTPRequestHandler] = partial(Server, directory=".")  # type: ignore[assignment]
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_address_is_fetched_and_a_missing_one_says_what_the_server_said(
    photos: Path, address: str
) -> None:
    (item,) = items(f"{address}/photos/0.jpg")
    assert isinstance(item, Item)
    assert item.read() == (photos / "0.jpg").read_bytes()
    (missing,) = items(f"{address}/photos/none.jpg")
    assert isinstance(missing, Item)
    with pytest.raises(DownloadError, match="the server answers 404"):
        missing.read()


def test_tables_and_shards_may_lie_behind_addresses(photos: Path, address: str) -> None:
    Path("t.csv").write_text("url\nphotos/0.jpg\n", encoding="utf-8")
    write_tar("s.tar", {"1.jpg": b"one"})
    assert names(f"{address}/t.csv") == [f"{address}/photos/0.jpg"]
    (item,) = items(f"{address}/s.tar")
    assert isinstance(item, Item)
    assert item.read() == b"one"


def test_offline_no_request_is_sent_for_an_address(
    photos: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    (item,) = items(f"{address}/photos/0.jpg")
    assert isinstance(item, Item)
    with pytest.raises(OfflineError):
        item.read()


def test_other_schemes_go_through_fsspec(photos: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    write_tar("s.tar", {"1.jpg": b"one"})
    memory.pipe("/bucket/s-0.tar", Path("s.tar").read_bytes())
    memory.pipe("/bucket/x.jpg", b"x")
    (member,) = items("memory://bucket/s-*.tar")
    (picture,) = items("memory://bucket/x.jpg")
    assert isinstance(member, Item)
    assert isinstance(picture, Item)
    assert (member.read(), picture.read()) == (b"one", b"x")


def test_a_scheme_without_its_package_and_an_unknown_scheme_are_reported(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneclip.hub.addresses.offline", lambda: False)
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(DataError, match="s3fs"):
        items("s3://bucket/*.tar")
    with pytest.raises(DataError, match="is not a scheme"):
        items("nonsense://bucket/*.tar")


def test_parquet_without_its_library_names_the_extra(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="parquet"):
        items("t.parquet")
