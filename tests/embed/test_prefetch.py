"""Prefetching of items: order, depth, memory limit, and the reported bottleneck."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny import picture

from oneclip.cli.progress_bars import _format_duration, _format_report
from oneclip.embed import prefetch
from oneclip.embed.items import Failure, Found, Item
from oneclip.embed.prefetch import DecodedItem, StageTimer, UnreadableItem, bottleneck, prefetch_items
from oneclip.embed.sources.files import file_item
from oneclip.embed.throughput import EmbedProgress, ThroughputMeter
from oneclip.embed.worker import _ListedSource as Listed
from oneclip.errors import DataError, ImageError
from oneclip.hub.addresses import read_bytes
from oneclip.image import check_header, open_image


class Numbers:
    """A source of numbers, the even ones quick to read; counts how many were read."""

    name = "numbers"
    is_bulky = False

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self._count, self._fails_at = count, fails_at
        self.read = 0
        self._lock = threading.Lock()

    def count(self) -> int | None:
        return self._count

    def __iter__(self) -> Iterator[Found]:
        for i in range(self._count):
            if i == self._fails_at:
                raise DataError("numbers has an end that is damaged")
            yield Item(str(i), lambda i=i: self._bytes(i)) if i != 3 else Failure("3", "3 is not a number")  # type: ignore[misc]

    def _bytes(self, i: int) -> bytes:
        time.sleep(0.002 * (i % 2))
        with self._lock:
            self.read += 1
        if i == 5:
            raise OSError(5, "Input/output error")
        return str(i).encode()


def unknown(item: Item, digest: str) -> None:
    return None


def test_items_and_failures_keep_their_order() -> None:
    found = list(
        prefetch_items([Numbers(40)], lambda content: content.read(), unknown, StageTimer(), depth=8)
    )
    assert found[3] == Failure("3", "3 is not a number")
    assert isinstance(found[5], UnreadableItem)
    assert found[5].reason == "5 cannot be read: Input/output error"
    values = [entry.value for entry in found if isinstance(entry, DecodedItem)]
    assert values == [str(i).encode() for i in range(40) if i not in (3, 5)]


def test_no_more_than_depth_items_are_read_ahead() -> None:
    numbers = Numbers(1000)
    found = prefetch_items([numbers], lambda content: content.read(), unknown, StageTimer(), depth=8)
    next(found)
    time.sleep(0.2)
    assert numbers.read <= 8 + 3  # one is out, one waits to get in
    found.close()


def test_a_failing_source_raises_after_its_earlier_items() -> None:
    found = prefetch_items([Numbers(9, 7)], lambda content: content.read(), unknown, StageTimer(), depth=4)
    assert [next(found) is not None for _ in range(7)]
    with pytest.raises(DataError, match="end that is damaged"):
        next(found)


def test_known_items_are_not_decoded() -> None:
    def decode(content: object) -> None:
        pytest.fail("it was decoded")

    found = list(prefetch_items([Numbers(3)], decode, lambda item, digest: digest, StageTimer(), depth=4))
    assert all(isinstance(entry, DecodedItem) and entry.value == entry.digest for entry in found)


class Files:
    """A source of files of so many bytes, which are counted while they wait."""

    name = "files"
    is_bulky = False

    def __init__(self, sizes: list[int]) -> None:
        self._sizes = sizes
        self.lock = threading.Lock()
        self.waiting = self.most = 0

    def count(self) -> int | None:
        return len(self._sizes)

    def __iter__(self) -> Iterator[Found]:
        for i, size in enumerate(self._sizes):
            yield Item(str(i), lambda size=size: self._bytes(size), size=size)  # type: ignore[misc]

    def _bytes(self, size: int) -> bytes:
        with self.lock:
            self.waiting += size
            self.most = max(self.most, self.waiting)
        return bytes(size)

    def decode(self, content: io.BytesIO) -> str:
        time.sleep(0.001)
        with self.lock:
            self.waiting -= len(content.getvalue())
        return threading.current_thread().name


def test_undecoded_bytes_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_UNDECODED_BYTES", 100)
    files = Files([30, 40] * 20 + [250] + [30, 40] * 20)  # one is larger than all that may wait
    found = list(prefetch_items([files], files.decode, unknown, StageTimer(), depth=64))
    assert all(isinstance(entry, DecodedItem) for entry in found)
    assert files.most == 250
    files = Files([30, 40] * 40)
    list(prefetch_items([files], files.decode, unknown, StageTimer(), depth=64))
    assert files.most <= 100
    assert files.waiting == 0


def test_decoding_threads_are_limited() -> None:
    files = Files([1] * 60)  # each thread that decodes keeps the memory of the largest image it had
    found = list(prefetch_items([files], files.decode, unknown, StageTimer(), depth=32, decoders=2))
    assert len({entry.value for entry in found if isinstance(entry, DecodedItem)}) <= 2


def test_stopping_early_ends_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "MAX_UNDECODED_BYTES", 1)
    before = set(threading.enumerate())
    files = Files([10] * 100)
    found = prefetch_items([files], files.decode, unknown, StageTimer(), depth=32)
    next(found)
    found.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread.name


def test_a_large_file_that_is_not_an_image_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "LARGE_FILE_BYTES", 1000)
    content = b"P6 30000 30000 255\n" + bytes(2000)
    (tmp_path / "bomb.ppm").write_bytes(content)
    (tmp_path / "film.jpg").write_bytes(b"a film" * 500)
    picture(0, (400, 300)).save(tmp_path / "a.bmp")

    def read() -> bytes:
        pytest.fail("it was read")

    items = [replace(file_item(str(tmp_path / name)), read=read) for name in ("bomb.ppm", "film.jpg")]
    items.append(file_item(str(tmp_path / "a.bmp")))
    bomb, film, image = prefetch_items(
        [Listed(items)],
        open_image,
        unknown,
        StageTimer(),
        depth=4,
        check_header=partial(check_header, max_pixels=10**6),
    )
    assert isinstance(bomb, UnreadableItem)
    assert "30000 x 30000 pixels" in bomb.reason
    assert bomb.digest == hashlib.sha256(content).hexdigest()  # so that a vector of its former content goes
    assert isinstance(film, UnreadableItem)
    assert "film.jpg is not an image" in film.reason
    assert isinstance(image, DecodedItem)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")  # to open it would wait for a writer
    picture(0).save(tmp_path / "a.jpg")
    paths = [str(tmp_path / "x.jpg"), "/dev/zero", str(tmp_path), str(tmp_path / "a.jpg")]
    pipe, device, folder, image = prefetch_items(
        [Listed([file_item(path) for path in paths])], open_image, unknown, StageTimer(), depth=4
    )
    assert isinstance(pipe, UnreadableItem)
    assert pipe.reason == f"{tmp_path / 'x.jpg'} is a pipe; expected a regular file"
    assert isinstance(device, UnreadableItem)
    assert device.reason == "/dev/zero is a device; expected a regular file"
    assert isinstance(folder, UnreadableItem)
    assert "is a folder" in folder.reason
    assert isinstance(image, DecodedItem)
    for path in paths[:3]:
        with pytest.raises(ImageError, match="is a"):
            open_image(path)
        with pytest.raises(ImageError, match="is a"):
            read_bytes(path)


@pytest.mark.parametrize(
    ("reading", "decoding", "waiting", "model", "expected"),
    [(9, 1, 1, 5, "the model"), (9, 1, 5, 1, "reading"), (1, 9, 5, 1, "decoding")],
)
def test_the_bottleneck_is_the_slowest_stage(
    reading: float, decoding: float, waiting: float, model: float, expected: str
) -> None:
    before = dict.fromkeys(("reading", "decoding", "waiting", "model"), 1.0)
    now = {"reading": reading + 1, "decoding": decoding + 1, "waiting": waiting + 1, "model": model + 1}
    assert bottleneck(before, now) == expected


def test_the_meter_reports_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    reports: list[EmbedProgress] = []
    meter = ThroughputMeter(StageTimer(), 100, reports.append)
    for _ in range(40):
        now += 0.5
        meter.advance()
    assert reports[-1].done == 40
    assert reports[-1].rate == pytest.approx(2)
    assert reports[-1].seconds_left == pytest.approx(30)


def test_the_text_of_the_progress_bar() -> None:
    report = EmbedProgress(1200, 5000, 96.25, 12_345.0, "decoding")
    assert _format_report(report, "pictures") == (
        "1200 of 5000 pictures, 96.2 per second, 3 h 25 min left, limited by decoding"
    )
    assert (
        _format_report(EmbedProgress(7, None, 1234.5, None, "reading"), "captions")
        == "7 captions, 1234 per second, limited by reading"
    )
    assert [_format_duration(s) for s in (9.6, 80, 90_061)] == ["10 s", "1 min 20 s", "1 d 1 h"]
