"""CLIP_benchmark's webdataset layout: in a folder, at an address, and on the hub."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hub_server import Fault, Hub, in_this_process
from small_datasets import image_bytes, make_wds, wds_files
from tars import tar

from oneclip.embed.items import Failure
from oneclip.errors import DataError, DownloadError, OfflineError
from oneclip.evaluate.data import Sample, open_dataset


def samples(source: str | Path, split: str = "test", **options: str) -> list[Sample]:
    """Return the samples of a split without failures."""
    found = list(open_dataset(source, **options).split(split))  # type: ignore[arg-type]
    assert not any(isinstance(each, Failure) for each in found)
    return found  # type: ignore[return-value]


def test_classes_and_templates_belong_to_the_data_set(tmp_path: Path) -> None:
    dataset = open_dataset(make_wds(tmp_path / "wds_vtab-colours_test"))
    assert (dataset.name, dataset.kind, list(dataset.splits)) == (
        "wds/vtab/colours",
        "classes",
        ["train", "test"],
    )
    assert dataset.classes == ["red", "green", "blue"]
    assert dataset.templates == ["a photo of something {}.", "a {} thing."]


@pytest.mark.parametrize(("format", "pillow"), [("webp", "WEBP"), ("png", "PNG"), ("jpg", "JPEG")])
def test_images_and_classes_are_read_from_all_shards(tmp_path: Path, format: str, pillow: str) -> None:
    found = samples(make_wds(tmp_path, splits={"test": 3}, shards=2, format=format))
    assert [each.label for each in found] == [0, 1, 2] * 3
    colours = ("red", "green", "blue")
    assert [each.item.read() for each in found] == [
        image_bytes(colours[n % 3], n, format=pillow) for n in range(9)
    ]
    assert found[0].item.name == f"{tmp_path}/test/0.tar/s0000000.{format}"
    assert found[8].item.name == f"{tmp_path}/test/1.tar/s0000008.{format}"


def test_a_multilabel_sample_has_the_positions_of_its_ones(tmp_path: Path) -> None:
    make_wds(tmp_path, "multilabel", splits={"test": 1})
    assert open_dataset(tmp_path).kind == "multilabel"
    assert [each.labels for each in samples(tmp_path)] == [(0,), (1, 2), (2,)]


def test_a_retrieval_sample_has_a_caption_in_each_line(tmp_path: Path) -> None:
    make_wds(tmp_path, "retrieval", splits={"test": 1})
    dataset = open_dataset(tmp_path)
    assert (dataset.kind, dataset.classes, dataset.templates) == ("captions", [], None)
    assert samples(tmp_path)[1].texts == ("a green thing 1", "something green, 1")


def test_groups_are_a_field_of_json_or_a_column_of_npy(tmp_path: Path) -> None:
    array = wds_files("multilabel", splits={"test": 1}, shards=1)["test/0.tar"]
    numbers = array[array.index(b"\x93NUMPY") :][:140]  # of the classes 1, 0, 0
    files = {"0.png": image_bytes("red"), "0.cls": b"1", "0.json": b'{"camera": "old"}', "0.npy": numbers}
    make_wds(tmp_path, splits={"test": 1}, shards=1)
    (tmp_path / "test" / "0.tar").write_bytes(tar(files))
    assert samples(tmp_path, group_column="camera")[0].group == "old"
    assert float(samples(tmp_path, group_column="npy:0")[0].group) == np.float32(1)


@pytest.mark.parametrize(
    ("column", "place"), [("lens", "field 'lens' in its .json"), ("npy:9", "column '9' in its .npy")]
)
def test_a_group_column_that_does_not_exist_is_one_error(tmp_path: Path, column: str, place: str) -> None:
    make_wds(tmp_path, splits={"test": 2}, shards=1)
    with pytest.raises(DataError, match=f"has no group: there is no {place}. Expected in group_column"):
        list(open_dataset(tmp_path, group_column=column).split("test"))


def test_a_sample_without_annotation_is_a_failure(tmp_path: Path) -> None:
    make_wds(tmp_path, splits={"test": 1}, shards=1)
    files = {"0.png": image_bytes("red"), "1.png": image_bytes("red", 1), "1.cls": b"1", "2.cls": b"0"}
    (tmp_path / "test" / "0.tar").write_bytes(tar({**files, "3.png": b"", "3.cls": b"two"}))
    found = list(open_dataset(tmp_path).split("test"))
    assert [each.label for each in found if isinstance(each, Sample)] == [1]
    reasons = [
        each.reason.removeprefix(f"{tmp_path}/test/0.tar/") for each in found if isinstance(each, Failure)
    ]
    assert reasons[:2] == ["0 has no .cls", "2 has no image (webp, png, jpg)"]
    assert reasons[2].startswith("3: its annotation cannot be read: invalid literal for int()")


def test_a_truncated_tar_is_a_failure_after_its_whole_samples(tmp_path: Path) -> None:
    make_wds(tmp_path, splits={"test": 3}, shards=1)
    path = tmp_path / "test" / "0.tar"
    path.write_bytes(path.read_bytes()[:6000])
    *found, cut, last = open_dataset(tmp_path).split("test")
    assert [each.label for each in found if isinstance(each, Sample)] == [0, 1]
    assert isinstance(cut, Failure)
    assert cut.reason.endswith("s0000002 has no .cls")
    assert isinstance(last, Failure)
    assert "is damaged after 3 samples" in last.reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classnames.txt": None}, "has no class names; give a file with one name per line"),
        ({"classnames.txt": b"red\n"}, "has one class, 'red'; expected at least two"),
        ({"classnames.txt": b"red\ngreen\n"}, "has the class 2, but .* has 2 class names"),
        (
            {"dataset_type.txt": b"detection"},
            "'detection'; expected one of classification, multilabel, retrieval",
        ),
        ({"test/nshards.txt": b"0\n"}, "test/nshards.txt of .* has '0'; expected the number of tars"),
        (
            {"test/nshards.txt": b"3\n"},
            "test/2.tar does not exist, although test/nshards.txt announces 3 tars",
        ),
        ({"test/0.tar": tar({}), "test/1.tar": tar({})}, "the split 'test' of .* has no images"),
        (
            {"zeroshot_classification_templates.txt": b"a photo\n"},
            "has 'a photo'; expected one prompt per line",
        ),
    ],
)
def test_a_layout_that_cannot_be_evaluated_is_one_clear_error(
    tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    make_wds(tmp_path, splits={"test": 1})
    for name, content in change.items():
        if content is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        samples(tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with in_this_process(monkeypatch, tmp_path) as found:
        files = wds_files(splits={"test": 2})
        found.publish("datasets/clip-benchmark/wds_vtab-colours", files)
        yield found


@pytest.mark.parametrize(
    "name",
    [
        "wds/vtab/colours",
        "clip-benchmark/wds_vtab-colours",
        "https://huggingface.co/datasets/clip-benchmark/wds_vtab-colours/tree/main",
    ],
)
def test_a_data_set_on_the_hub_is_downloaded_once(hub: Hub, name: str) -> None:
    for _ in range(2):
        found = samples(name)
        assert [each.label for each in found] == [0, 1, 2, 0, 1, 2]
        assert found[0].item.read() == image_bytes("red", 0, format="WEBP")
    assert open_dataset(name).name == "wds/vtab/colours"
    assert len(hub.downloads("0.tar")) == 1


def test_tars_are_downloaded_when_they_are_needed(hub: Hub) -> None:
    found = iter(open_dataset("wds/vtab/colours").split("test"))
    assert not hub.downloads("0.tar")
    next(found)
    assert hub.downloads("0.tar")
    assert not hub.downloads("1.tar")


def test_a_download_that_breaks_goes_on_with_what_is_missing(hub: Hub) -> None:
    hub.faults += [Fault("test/1.tar", status=403)]
    with pytest.raises(DownloadError, match=r"1\.tar"):
        samples("wds/vtab/colours")
    assert len(samples("wds/vtab/colours")) == 6
    assert len(hub.downloads("0.tar")) == 1


def test_a_downloaded_data_set_is_used_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    samples("wds/vtab/colours")
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    assert len(samples("wds/vtab/colours")) == 6
    with pytest.raises(
        OfflineError, match="wds/mnist is not on this machine and the network is switched off"
    ):
        open_dataset("wds/mnist")


def test_an_unknown_data_set_of_the_hub_is_an_error(hub: Hub) -> None:
    with pytest.raises(DownloadError, match="datasets/clip-benchmark/wds_nothing could not be found"):
        open_dataset("wds/nothing")


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Serve a data set over HTTP; the list receives the paths that were sent."""
    make_wds(tmp_path / "served", splits={"test": 2})
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    sent: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            if str(args[1]) == "200":
                sent.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", sent
        server.shutdown()
        thread.join()


def test_a_data_set_at_an_address_is_downloaded_once(address: tuple[str, list[str]]) -> None:
    url, sent = address
    for _ in range(2):
        assert [each.label for each in samples(url)] == [0, 1, 2, 0, 1, 2]
    assert sent.count("/test/0.tar") == sent.count("/test/1.tar") == sent.count("/classnames.txt") == 1


def test_a_data_set_at_an_address_is_used_offline(
    address: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = address
    samples(url)
    monkeypatch.setenv("ONECLIP_OFFLINE", "1")
    assert len(samples(url)) == 6
    with pytest.raises(OfflineError):
        open_dataset(f"{url}/other")


def test_an_address_without_a_data_set_is_an_error(address: tuple[str, list[str]]) -> None:
    with pytest.raises(DataError, match=r"has no split: neither test/nshards.txt nor train/nshards.txt"):
        open_dataset(f"{address[0]}/other")
    with pytest.raises(DataError, match=r"table\.csv: tables are read from this machine"):
        open_dataset(f"{address[0]}/table.csv")


def test_a_data_set_in_a_file_system_of_fsspec_is_copied_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("ONECLIP_CACHE", str(tmp_path))
    for name, content in wds_files(splits={"test": 1}).items():
        fsspec.filesystem("memory").pipe(f"/evaluation/{name}", content)
    assert [each.label for each in samples("memory://evaluation")] == [0, 1, 2]
    fsspec.filesystem("memory").rm("/evaluation", recursive=True)
    assert len(samples("memory://evaluation")) == 3
